#include "calls.h"

#include <math.h>

#define REFUSE_IF(wrong, words) \
    do {                        \
        if (wrong) return words; \
    } while (0)

static int is(const Tensor *x, size_t rank, const int64_t *sizes) {
    if (!x->given || x->rank != rank) return 0;
    for (size_t axis = 0; axis < rank; axis++)
        if (x->sizes[axis] != sizes[axis]) return 0;
    return 1;
}

#define SIZES(...) sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (const int64_t[]){__VA_ARGS__}

static int absent_or(const Tensor *x, size_t rank, const int64_t *sizes) { return !x->given || is(x, rank, sizes); }

// NULL: left out.
static const void *data_of(const Tensor *x) { return x->given ? x->data : NULL; }

static int is_epsilon(float x) { return x >= 0 && !isinf(x); }

// Of one stream, [1, tokens, width]; 0 if it is not that, or has no token.
static int64_t tokens_of(const Tensor *x, int64_t width) {
    return x->given && x->rank == 3 && x->sizes[1] > 0 && is(x, SIZES(1, x->sizes[1], width)) ? x->sizes[1] : 0;
}

// What there is of a matrix, before its shapes; `weights` and `factors` as below.
static const char *check_kind(const MatrixOptions *of, const Tensor *weights, const Tensor *factors) {
    const int bits = (int)of->bits, has_scale = weights[1].given, has_offset = weights[2].given;
    const int has_factors = factors[0].given, has_offset_factors = factors[1].given;
    REFUSE_IF(bits != of->bits || (bits != 4 && bits != 5 && bits != 6 && bits != 8 && bits != 16),
              "weights are in 4, 5, 6, 8 or 16 bits");
    REFUSE_IF(of->table != 0 && of->table != 1, "table is 0 or 1");
    REFUSE_IF(of->table && bits != 4 && bits != 16, "weights of the table are in 4 bits");
    REFUSE_IF(has_scale == (bits == 16), "weights have a scale, and in 16 bits none");
    REFUSE_IF(has_offset && (bits > 5 || of->table), "weights in 6 bits or more, or of the table, take no offset");
    REFUSE_IF(has_factors && bits > 6, "weights in 8 or 16 bits take no factors");
    REFUSE_IF(!has_factors && bits == 6, "weights in 6 bits have factors");
    REFUSE_IF(has_factors && bits < 6 && !of->table && !has_offset, "weights with factors have an offset");
    REFUSE_IF(has_offset_factors != (has_offset && has_factors), "an offset has factors where its scale has");
    return NULL;
}

// `weights` are codes, scale and offset, `factors` those of scale and offset.
static const char *fill_matrix(const MatrixOptions *of, int64_t columns, const Tensor *weights, const Tensor *factors,
                               Matrix *w) {
    const char *refused = check_kind(of, weights, factors);
    REFUSE_IF(refused, refused);
    REFUSE_IF(of->rows < 1 || of->rows > MOST, "rows are 1 or more, and fewer than 2^53");
    REFUSE_IF(columns < BLOCK || columns > MOST || columns % BLOCK, "columns are whole blocks of 32, one or more");
    REFUSE_IF(factors->given && columns % SUPER, "columns are whole blocks of 256 where there are factors");
    const int64_t groups = (of->rows + GROUP - 1) / GROUP, blocks = columns / BLOCK;
    const int64_t halves = factors->given ? columns / SUPER : blocks, parts = of->bits == 6 ? 2 : 1;
    REFUSE_IF(!is(weights, SIZES(groups, blocks * of->bits, GROUP, 4)), "codes are not of rows x columns");
    REFUSE_IF(!absent_or(weights + 1, SIZES(groups, halves, GROUP)), "scale is not of rows x blocks");
    REFUSE_IF(!absent_or(weights + 2, SIZES(groups, halves, GROUP)), "offset is not of rows x blocks");
    REFUSE_IF(!absent_or(factors, SIZES(groups, blocks * parts, GROUP)), "factors are not of rows x blocks");
    REFUSE_IF(!absent_or(factors + 1, SIZES(groups, blocks, GROUP)), "offset_factors are not of rows x blocks");
    *w = (Matrix){
        .codes = weights[0].data, .scale = data_of(weights + 1), .offset = data_of(weights + 2),
        .factors = data_of(factors), .offset_factors = data_of(factors + 1),
        .rows = of->rows, .columns = columns, .bits = (int)of->bits, .table = (int)of->table,
    };
    return NULL;
}

int64_t product_width(const Product *p) { return p->gated ? p->weight.rows / 2 : p->weight.rows; }

const char *product_call(const MatrixOptions *of, const Tensor *inputs, Product *p) {
    const Tensor *x = inputs, *norm = inputs + 4, *residual = inputs + 5, *bias = inputs + 6, *after = inputs + 7;
    REFUSE_IF(!x->given || x->rank != 3, "x is [1, tokens, columns]");
    REFUSE_IF(of->gated < 0 || of->gated > 2 * GELU_TANH, "gated is 0 to 4: not, by SiLU, by GELU, and by either in turn");
    const int in_turn = of->gated > GELU_TANH;
    REFUSE_IF(of->coarse != 0 && of->coarse != 1, "coarse is 0 or 1");
    *p = (Product){
        .tokens = tokens_of(x, x->sizes[2]), .x = x->data, .epsilon = of->epsilon, .coarse = (int)of->coarse,
        .gated = (Gate)(of->gated - in_turn * GELU_TANH), .in_turn = in_turn,
    };
    REFUSE_IF(!p->tokens, "x is [1, tokens, columns], of a token or more");
    const char *refused = fill_matrix(of, x->sizes[2], inputs + 1, inputs + 8, &p->weight);
    REFUSE_IF(refused, refused);
    REFUSE_IF(p->gated && of->rows % (2 * GROUP), "a gated product has two halves of whole groups of 16 rows");
    REFUSE_IF(!absent_or(norm, SIZES(x->sizes[2])), "norm is [columns]");
    REFUSE_IF(!absent_or(residual, SIZES(1, p->tokens, product_width(p))), "residual is not shaped as the result");
    REFUSE_IF(!absent_or(bias, SIZES(of->rows)), "bias is [rows]");
    REFUSE_IF(!absent_or(after, SIZES(of->rows)), "after, the weight of a norm, is [rows]");
    REFUSE_IF(p->gated && (bias->given || after->given), "a gated product has no bias and no norm after it");
    REFUSE_IF(norm->given && after->given, "a product has one norm, before it or after it");
    REFUSE_IF(after->given && of->rows % GROUP, "a product with a norm after it has whole groups of 16 rows");
    REFUSE_IF(!is_epsilon(p->epsilon), "epsilon is a number, 0 or more");
    p->norm = data_of(norm), p->residual = data_of(residual), p->bias = data_of(bias), p->after = data_of(after);
    return NULL;
}

const char *rows_call(const MatrixOptions *of, const Tensor *inputs, Lookup *l) {
    const Tensor *ids = inputs;
    REFUSE_IF(!ids->given || ids->rank != 2 || ids->sizes[0] != 1 || ids->sizes[1] < 1, "ids are [1, tokens]");
    *l = (Lookup){.tokens = ids->sizes[1], .ids = ids->data};
    const char *refused = fill_matrix(of, of->columns, inputs + 1, inputs + 4, &l->weight);
    REFUSE_IF(refused, refused);
    for (int64_t t = 0; t < l->tokens; t++)
        REFUSE_IF(l->ids[t] < 0 || l->ids[t] >= of->rows, "an id is outside the rows");
    return NULL;
}

// Numbers of the stream against each other and the buffers, once these have been found to be what they should.
static const char *check_ring(const Attention *a) {
    REFUSE_IF(a->position < 0 || a->position > MOST - a->tokens, "a position is 0 or more, and less than 2^53");
    REFUSE_IF(a->capacity < 1 || a->capacity > MOST, "the capacity is 1 or more, and less than 2^53");
    REFUSE_IF(a->sinks < 0 || a->sinks > a->capacity - a->tokens, "sinks are 0 or more, and leave room for the tokens");
    REFUSE_IF(a->sinks >= a->rows, "the buffers have no row beyond the sinks");
    // while a stream is young its tokens lie in their order; later a window stays whole while the tokens are written
    for (int64_t t = 0; a->oldest && t < a->tokens; t++) {
        const int64_t *oldest = a->oldest + t * a->oldest_step;
        REFUSE_IF(*oldest < 0 || *oldest > a->position + t, "a window begins at 0 or later, and has its own token");
        REFUSE_IF(t && *oldest < oldest[-a->oldest_step], "a window begins no earlier than that of the token before");
    }
    REFUSE_IF(a->position + a->tokens > a->rows && a->rows < a->capacity + a->tokens - 1,
              "the buffers have fewer rows than are written and seen");
    return NULL;
}

static int is_number(const Tensor *x) { return is(x, SIZES(1)); }

const char *attention_call(const AttentionOptions *of, const Tensor *inputs, Attention *a) {
    const Tensor *qkv = inputs, *key = inputs + 1, *value = inputs + 2, *position = inputs + 3, *sinks = inputs + 4;
    const Tensor *q_norm = inputs + 9, *k_norm = inputs + 10, *oldest = inputs + 11, *rows_asked = inputs + 12;
    REFUSE_IF(!key->given || key->rank != 4 || key->sizes[0] != 1, "key is [1, key/value heads, rows, head dimension]");
    REFUSE_IF(key->elements != HALVES && key->elements != FLOATS, "key is in float16 or float32");
    const int64_t kv_heads = key->sizes[1], rows = key->sizes[2], dim = key->sizes[3];
    REFUSE_IF(kv_heads < 1 || rows < 1 || rows > MOST, "key has a head and a row, or more");
    REFUSE_IF(!is(value, SIZES(1, kv_heads, rows, dim)), "value is not shaped as key");
    REFUSE_IF(dim < GROUP || dim > MOST_HEAD_DIM || dim % GROUP, "a head dimension is a multiple of 16, at most 1024");
    REFUSE_IF(of->heads < 1 || of->heads > MOST_HEADS || kv_heads > of->heads || of->heads % kv_heads,
              "heads are a multiple of the key/value heads, at most 65536");
    const int64_t tokens = tokens_of(qkv, (of->heads + 2 * kv_heads) * dim);
    REFUSE_IF(!tokens, "qkv is [1, tokens, (heads + 2 key/value heads) head dimension], of a token or more");
    REFUSE_IF(!is_number(position) || !is_number(sinks), "position and sinks are [1]");
    for (int phase = 5; phase < 9; phase++)
        REFUSE_IF(!is(inputs + phase, SIZES(1, tokens, dim / 2)), "phases are [1, tokens, head dimension / 2]");
    REFUSE_IF(!absent_or(q_norm, SIZES(dim)) || !absent_or(k_norm, SIZES(dim)), "norms of heads are [head dimension]");
    REFUSE_IF(!absent_or(oldest, SIZES(1)) && !absent_or(oldest, SIZES(tokens)), "oldest is [1] or [tokens]");
    REFUSE_IF((q_norm->given || k_norm->given) && !is_epsilon(of->epsilon), "norms have an epsilon, a number from 0 on");
    REFUSE_IF(!(of->scale >= 0) || isinf(of->scale), "scale is a number above 0, or left out");
    REFUSE_IF(of->coarse != 0 && of->coarse != 1, "coarse is 0 or 1");
    const int64_t *logit_rows = data_of(rows_asked);
    REFUSE_IF(!absent_or(rows_asked, SIZES(1)) || (logit_rows && *logit_rows < 1), "logit_rows is [1], 1 or more");
    *a = (Attention){
        .coarse = (int)of->coarse, .is_read = logit_rows && *logit_rows == 1, .tokens = tokens,
        .heads = of->heads, .kv_heads = kv_heads, .head_dim = dim, .rows = rows,
        .capacity = of->capacity, .position = *(const int64_t *)position->data, .sinks = *(const int64_t *)sinks->data,
        .wide_keys = key->elements == FLOATS, .qkv = qkv->data, .cosine = inputs[5].data, .sine = inputs[6].data,
        .sink_cosine = inputs[7].data, .sink_sine = inputs[8].data, .epsilon = of->epsilon,
        .q_norm = data_of(q_norm), .k_norm = data_of(k_norm),
        .oldest = data_of(oldest), .oldest_step = oldest->given && oldest->sizes[0] > 1,
        .scale = of->scale > 0 ? of->scale : 1.0f / sqrtf((float)dim),
    };
    return check_ring(a);
}
