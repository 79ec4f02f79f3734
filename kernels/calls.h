// From the tensors and attributes of a node to a call of the kernels. Here every index, shape and size is checked,
// before any memory is touched: what is in a graph, a session file or a host's buffers may be wrong or hostile. Knows
// nothing of ONNX Runtime.
#pragma once

#include "kernels.h"

// Of a tensor that may be of several types; of others the host has checked it.
typedef enum { OTHERS, HALVES, FLOATS } Elements;

typedef struct {
    int given;             // 0: left out
    Elements elements;
    size_t rank;
    const int64_t *sizes;  // of the axes; as many elements lie at `data`
    void *data;
} Tensor;

enum { PRODUCT_INPUTS = 10, ROWS_INPUTS = 6, ATTENTION_INPUTS = 13 };

typedef struct {
    int64_t rows, columns, bits, table, gated, coarse;  // columns: of BlockRows
    float epsilon;
} MatrixOptions;

typedef struct {
    int64_t heads, capacity, coarse;
    float scale;    // 0: 1 / sqrt(D)
    float epsilon;  // of the norms of heads, without which it is not read
} AttentionOptions;

// Rows looked up: out[t] = row ids[t] of the weight.
typedef struct {
    Matrix weight;
    int64_t tokens;
    const int64_t *ids;  // [T]
} Lookup;

// Each fills in a call, but for what it writes and its scratch, from the inputs in the order of onnxruntime.c. NULL, or
// why there can be no such call, in words.
const char *product_call(const MatrixOptions *, const Tensor *inputs, Product *);
const char *rows_call(const MatrixOptions *, const Tensor *inputs, Lookup *);
const char *attention_call(const AttentionOptions *, const Tensor *inputs, Attention *);

// Columns of a product's result.
int64_t product_width(const Product *);
