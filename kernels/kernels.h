// What the operators ask of an instruction set: products of activations with quantised weights, and attention over the
// sink + window ring. Knows nothing of ONNX Runtime; work is cut into tasks, and who runs them is the caller's.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef uint16_t half;  // IEEE binary16, as it lies in memory

enum {
    BLOCK = 32,            // columns that share a scale
    SUPER = 256,           // columns that share what the factors of their blocks are multiplied by
    GROUP = 16,            // rows side by side
    MOST_APART = 16,       // tokens of a pass, each of which has the bits that it would have alone
    MOST_APART_READ = 8,   // of one that is read, for the logits of its last token only: attention may then be coarse
    MOST_HEADS = 1 << 16,  // of a call that is taken
    MOST_HEAD_DIM = 1024,
};

// Of tokens in a stream, and of rows and columns: phases are computed in float64, which counts no further.
#define MOST ((int64_t)1 << 53)

// w[n, k] = scale * value + offset, of the codes of a row's block of 32 columns. A value is the code, or what the table
// of GGUF's IQ4 has for it. A scale is a half, or that of 256 columns times a factor of the block (in 6 bits: of each
// half of the block), and so is an offset. Without one, the middle of the codes is 0.
//
// Sixteen rows lie side by side, filled up at the end: in turn four bytes of each. A block of 32 columns has as many
// such vectors as bits. In 8 bits byte c of vector i is column 4 i + c. Else byte c of vectors 0 ... 3 has the low
// four bits of column 4 i + c, and above them those of column 16 + 4 i + c; what is above these four bits follows: in 5
// bits, bit i of byte c is that of column 4 i + c; in 6 bits there are two vectors, each of half the columns, and bits
// 2 j and 2 j + 1 of byte c are those of its column 4 j + c. In 16 bits a weight is a float as it lies, vector i has
// columns 2 i and 2 i + 1, and there is nothing else.
typedef struct {
    const uint8_t *codes;           // [N / 16, K / 32 * bits, 16, 4]
    const half *scale;              // [N / 16, K / 32, 16], with factors [N / 16, K / 256, 16]; NULL in 16 bits
    const half *offset;             // likewise; or NULL
    const int8_t *factors;          // [N / 16, K / 32, 16], in 6 bits [N / 16, K / 16, 16]; or NULL
    const int8_t *offset_factors;   // [N / 16, K / 32, 16], where there are factors and an offset
    int64_t rows;                   // N
    int64_t columns;                // K, a multiple of BLOCK, with factors of SUPER
    int bits;                       // 4, 5, 6, 8 or 16
    int table;                      // 1: of IQ4, in 4 bits and without an offset; in 16 bits bfloat16, else float16
} Matrix;

// What the first half of a product's rows goes through before it multiplies the second half: z sigmoid(z), or GELU by its
// approximation with tanh.
typedef enum { NO_GATE, SILU, GELU_TANH } Gate;

// out[t, n] = residual[t, n] + sum_k normed(x)[t, k] w[n, k] + bias[n], where the product may go through a norm of its
// own before the residual is added; or, gated, the gate of that of half of the rows times that of the others: of the first
// half and the second, or where they lie in turn, of the even groups of rows and the odd. Activations are
// rounded to 15 bits by block, which leaves nothing to be seen. A coarse product of more than MOST_APART tokens, by eights of
// them, rounds blocks to 8 bits that have no outstanding values; which, depends on the eight.
typedef struct {
    Matrix weight;
    int64_t tokens;         // T
    const float *x;         // [T, K]
    const float *norm;      // [K], the weight of an RMSNorm before the product; NULL: none
    const float *after;     // [N], that of an RMSNorm of each token's N products, a multiple of GROUP; NULL: none
    float epsilon;          // of either; there is one at most
    const float *residual;  // [T, N] or NULL
    const float *bias;      // [N] or NULL
    int coarse;             // 1: long passes may be
    Gate gated;             // with no bias and no norm after it
    int in_turn;            // 1, where gated: a group of rows and the one that it is the gate of are neighbours
    float *out;             // [T, N], gated [T, N / 2]
    void *scratch;          // product_scratch_bytes, for all tasks
} Product;

// softmax(scale q k^T) v over what the ring holds of tokens 0 ... position + T - 1, theirs written first. The query is
// rotated twice: at its position for the window, and where the sinks see it. A pair of dimensions that does not turn has
// phases of 1 and 0.
typedef struct {
    int64_t tokens, heads, kv_heads, head_dim;  // T, H, K, D
    int64_t rows;                               // of the buffers
    int64_t capacity;                           // tokens seen at most
    int64_t position;                           // of the first of the T
    int64_t sinks;
    const int64_t *oldest;                      // where the window of a token begins at the earliest; NULL: nowhere
    int64_t oldest_step;                        // from token to token: 1, or 0 where it is one number for all
    float scale;
    const float *q_norm, *k_norm;               // [D], weights of an RMSNorm of each head before it turns; NULL: none
    float epsilon;                              // of these norms
    const float *qkv;                           // [T, (H + 2 K) D]
    const float *cosine, *sine;                 // [T, D / 2], at the position
    const float *sink_cosine, *sink_sine;       // [T, D / 2], where the sinks see the query
    int coarse;                                 // 1: a long pass may multiply in bfloat16 what is not in floats
    int is_read;                                // 1: nobody asks for the logits of any token but the last
    int wide_keys;                              // 1: keys are floats, else they are halves; values are halves
    void *keys;                                 // [K, rows, D]
    half *values;                               // [K, rows, D]
    float *context;                             // [T, H D]
    void *scratch;                              // attention_scratch_bytes, for all tasks
} Attention;

// A call is one that calls.c has let through. A task gives 0 if it finds no memory to work in; the result is then none.
typedef struct {
    size_t (*scratch_bytes)(const Product *);
    int64_t (*rounds)(const Product *);
    void (*round)(const Product *, int64_t task);    // tasks 0 ... rounds - 1, before any `task`
    int64_t (*tasks)(const Product *);
    int (*task)(const Product *, int64_t task);
    void (*finish)(const Product *, int64_t token);  // tasks 0 ... T - 1, after them all: if there is `after`
    void (*row)(const Matrix *, int64_t row, float *out);  // [K]
} ProductKernels;

typedef struct {
    size_t (*scratch_bytes)(const Attention *);
    void (*write)(const Attention *, int64_t token);  // tasks 0 ... T - 1, before any `task`
    int64_t (*tasks)(const Attention *);
    int (*task)(const Attention *, int64_t task);
    void (*merge)(const Attention *);                 // after them all
} AttentionKernels;

typedef struct {
    const char *name;
    int (*supported)(void);
    const ProductKernels *product;
    const AttentionKernels *attention;
} Kernels;

extern const ProductKernels products_avx512;
extern const Kernels kernels_avx512_bf16, kernels_avx512, kernels_avx2, kernels_neon;

// Those that this processor runs, the fastest first; NULL beyond the last.
const Kernels *supported_kernels(size_t place);

// Memory of the calling thread, at least `bytes` from a cache line on, its contents undefined, kept for the next call;
// NULL if there is none.
// A call's own and its tasks' are two: the thread that calls runs tasks too.
typedef enum { OF_CALL, OF_TASK } ScratchUse;
void *thread_scratch(ScratchUse use, size_t bytes);
