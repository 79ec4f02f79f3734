// The operators of domain `edgesink` as ONNX Runtime's custom operators, and the entry that registers them.
//
//   BlockProduct(x, codes, scale, offset?, norm?, residual?) -> y
//     x float [1, T, K]; codes, scale, offset as `Matrix` in kernels.h, uint8 and float16; norm float [K]; residual and
//     y float [1, T, N], gated [1, T, N / 2]. Attributes: rows (N), bits, gated, epsilon. As `Product`.
//   BlockRows(ids, codes, scale, offset?) -> y
//     ids int64 [1, T]; y float [1, T, K], those rows of the weights. Attributes: rows (N), columns (K), bits.
//   RingAttention(qkv, key, value, position, sinks, cos, sin, sink_cos, sink_sin) -> context, key, value
//     qkv float [1, T, (H + 2 K) D]; key and value float16 [1, K, rows, D], to be bound to the memory of their outputs;
//     position and sinks int64 [1]; phases float [1, T, D / 2]; context float [1, T, H D].
//     Attributes: heads, capacity. As `Attention` in kernels.h.
//
// Threads are the session's own.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

// ---- what of ONNX Runtime's stable binary interface is used; places in OrtApi are counted from 0 in the order of the
// public header

enum {
    CREATE_STATUS = 0,
    CREATE_CUSTOM_OP_DOMAIN = 26,
    CUSTOM_OP_DOMAIN_ADD = 27,
    ADD_CUSTOM_OP_DOMAIN = 28,
    GET_TENSOR_MUTABLE_DATA = 51,
    GET_DIMENSIONS_COUNT = 61,
    GET_DIMENSIONS = 62,
    GET_TENSOR_TYPE_AND_SHAPE = 65,
    KERNEL_INFO_GET_ATTRIBUTE_FLOAT = 85,
    KERNEL_INFO_GET_ATTRIBUTE_INT64 = 86,
    KERNEL_CONTEXT_GET_INPUT = 90,
    KERNEL_CONTEXT_GET_OUTPUT = 91,
    RELEASE_STATUS = 93,
    RELEASE_TENSOR_TYPE_AND_SHAPE_INFO = 99,
    KERNEL_CONTEXT_PARALLEL_FOR = 274,
};

enum { API_VERSION = 17, OP_VERSION = 12, FAILED = 1, REQUIRED = 0, OPTIONAL = 1 };
enum { FLOAT = 1, UINT8 = 2, INT64 = 7, FLOAT16 = 10 };

typedef void *Handle;  // of any class of ONNX Runtime
typedef void (*Function)(void);
typedef struct {
    const Function *(*get_api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

typedef struct CustomOp CustomOp;
struct CustomOp {
    uint32_t version;
    void *(*create_kernel)(const CustomOp *, const Function *api, Handle info);
    const char *(*name)(const CustomOp *);
    const char *(*provider)(const CustomOp *);
    int (*input_type)(const CustomOp *, size_t);
    size_t (*input_count)(const CustomOp *);
    int (*output_type)(const CustomOp *, size_t);
    size_t (*output_count)(const CustomOp *);
    void (*compute)(void *kernel, Handle context);
    void (*destroy)(void *kernel);
    int (*input_characteristic)(const CustomOp *, size_t);
    int (*output_characteristic)(const CustomOp *, size_t);
};

static const Function *api;
static const Kernels *kernels;

#define CALL(place, type, ...) ((type)api[place])(__VA_ARGS__)

typedef Handle (*GetInput)(Handle, size_t, Handle *);
typedef Handle (*GetOutput)(Handle, size_t, const int64_t *, size_t, Handle *);
typedef Handle (*GetData)(Handle, void **);
typedef Handle (*GetShape)(Handle, Handle *);
typedef Handle (*GetCount)(Handle, size_t *);
typedef Handle (*GetSizes)(Handle, int64_t *, size_t);
typedef Handle (*GetFloat)(Handle, const char *, float *);
typedef Handle (*GetInt)(Handle, const char *, int64_t *);
typedef Handle (*ParallelFor)(Handle, void (*)(void *, size_t), size_t, size_t, void *);
typedef void (*Release)(Handle);

// A status is an error only where this file and the graph disagree; the graph is written by one exporter.
static void must(Handle status) {
    if (!status) return;
    fputs("edgesink: an operator was called against its definition\n", stderr);
    abort();
}

static void *input(Handle context, size_t place) {
    Handle value = NULL;
    void *data = NULL;
    must(CALL(KERNEL_CONTEXT_GET_INPUT, GetInput, context, place, &value));
    if (value) must(CALL(GET_TENSOR_MUTABLE_DATA, GetData, value, &data));
    return data;
}

enum { MOST_AXES = 4 };

static void shape(Handle context, size_t place, int64_t *sizes) {
    Handle value = NULL, info = NULL;
    size_t axes = 0;
    must(CALL(KERNEL_CONTEXT_GET_INPUT, GetInput, context, place, &value));
    must(CALL(GET_TENSOR_TYPE_AND_SHAPE, GetShape, value, &info));
    must(CALL(GET_DIMENSIONS_COUNT, GetCount, info, &axes));
    must(CALL(GET_DIMENSIONS, GetSizes, info, sizes, axes < MOST_AXES ? axes : MOST_AXES));
    CALL(RELEASE_TENSOR_TYPE_AND_SHAPE_INFO, Release, info);
}

static void *output(Handle context, size_t place, const int64_t *sizes, size_t axes) {
    Handle value = NULL;
    void *data = NULL;
    must(CALL(KERNEL_CONTEXT_GET_OUTPUT, GetOutput, context, place, sizes, axes, &value));
    must(CALL(GET_TENSOR_MUTABLE_DATA, GetData, value, &data));
    return data;
}

static int64_t attribute(Handle info, const char *name) {
    int64_t value = 0;
    must(CALL(KERNEL_INFO_GET_ATTRIBUTE_INT64, GetInt, info, name, &value));
    return value;
}

static void parallel(Handle context, int64_t tasks, void (*task)(void *, size_t), void *of) {
    if (tasks == 1) task(of, 0);
    else must(CALL(KERNEL_CONTEXT_PARALLEL_FOR, ParallelFor, context, task, (size_t)tasks, 0, of));
}

// ---- BlockProduct

typedef struct {
    int64_t rows, columns, bits, gated;
    float epsilon;
} ProductKernel;

static ProductKernel *weight_kernel(Handle info) {
    ProductKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return NULL;
    kernel->rows = attribute(info, "rows");
    kernel->bits = attribute(info, "bits");
    return kernel;
}

static void *create_product(const CustomOp *op, const Function *of, Handle info) {
    (void)op, (void)of;
    ProductKernel *kernel = weight_kernel(info);
    if (!kernel) return NULL;
    kernel->gated = attribute(info, "gated");
    must(CALL(KERNEL_INFO_GET_ATTRIBUTE_FLOAT, GetFloat, info, "epsilon", &kernel->epsilon));
    return kernel;
}

static Matrix matrix(const ProductKernel *kernel, Handle context, int64_t columns) {
    return (Matrix){.codes = input(context, 1), .scale = input(context, 2), .offset = input(context, 3),
                    .rows = kernel->rows, .columns = columns, .bits = (int)kernel->bits};
}

static void round_token(void *product, size_t token) { kernels->product_round(product, (int64_t)token); }
static void multiply(void *product, size_t task) { kernels->product_task(product, (int64_t)task); }

static void compute_product(void *of, Handle context) {
    const ProductKernel *kernel = of;
    int64_t x[MOST_AXES];
    shape(context, 0, x);
    Product p = {
        .weight = matrix(kernel, context, x[2]),
        .tokens = x[1], .x = input(context, 0), .norm = input(context, 4), .epsilon = kernel->epsilon,
        .residual = input(context, 5), .gated = (int)kernel->gated,
    };
    const int64_t sizes[] = {1, x[1], p.gated ? p.weight.rows / 2 : p.weight.rows};
    p.out = output(context, 0, sizes, 3);
    p.scratch = thread_scratch(OF_CALL, kernels->product_scratch_bytes(&p));
    parallel(context, p.tokens, round_token, &p);
    parallel(context, kernels->product_tasks(&p), multiply, &p);
}

// ---- BlockRows

static void *create_rows(const CustomOp *op, const Function *of, Handle info) {
    (void)op, (void)of;
    ProductKernel *kernel = weight_kernel(info);
    if (kernel) kernel->columns = attribute(info, "columns");
    return kernel;
}

static void compute_rows(void *of, Handle context) {
    const ProductKernel *kernel = of;
    int64_t ids[MOST_AXES];
    shape(context, 0, ids);
    const int64_t *id = input(context, 0), sizes[] = {1, ids[1], kernel->columns};
    const Matrix w = matrix(kernel, context, kernel->columns);
    float *out = output(context, 0, sizes, 3);
    for (int64_t t = 0; t < ids[1]; t++) kernels->matrix_row(&w, id[t], out + t * kernel->columns);
}

// ---- RingAttention

typedef struct {
    int64_t heads, capacity;
} AttentionKernel;

static void *create_attention(const CustomOp *op, const Function *of, Handle info) {
    (void)op, (void)of;
    AttentionKernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return NULL;
    kernel->heads = attribute(info, "heads");
    kernel->capacity = attribute(info, "capacity");
    return kernel;
}

static void write_token(void *attention, size_t token) { kernels->attention_write(attention, (int64_t)token); }
static void attend(void *attention, size_t task) { kernels->attention_task(attention, (int64_t)task); }

static half *state(Handle context, size_t place, size_t out, const int64_t *sizes) {
    const void *given = input(context, place);
    void *to = output(context, out, sizes, 4);
    if (given != to) memcpy(to, given, (size_t)(sizes[1] * sizes[2] * sizes[3]) * sizeof(half));
    return to;
}

static void compute_attention(void *of, Handle context) {
    const AttentionKernel *kernel = of;
    int64_t qkv[MOST_AXES], ring[MOST_AXES];
    shape(context, 0, qkv);
    shape(context, 1, ring);
    Attention a = {
        .tokens = qkv[1], .heads = kernel->heads, .kv_heads = ring[1], .head_dim = ring[3], .rows = ring[2],
        .capacity = kernel->capacity, .position = *(int64_t *)input(context, 3), .sinks = *(int64_t *)input(context, 4),
        .qkv = input(context, 0), .cosine = input(context, 5), .sine = input(context, 6),
        .sink_cosine = input(context, 7), .sink_sine = input(context, 8),
        .keys = state(context, 1, 1, ring), .values = state(context, 2, 2, ring),
    };
    const int64_t sizes[] = {1, a.tokens, a.heads * a.head_dim};
    a.context = output(context, 0, sizes, 3);
    a.scratch = thread_scratch(OF_CALL, kernels->attention_scratch_bytes(&a));
    for (int64_t token = 0; token < a.tokens; token++) write_token(&a, (size_t)token);
    parallel(context, kernels->attention_tasks(&a), attend, &a);
    kernels->attention_merge(&a);
}

// ---- how they are declared

static const char *product_name(const CustomOp *op) { return (void)op, "BlockProduct"; }
static const char *attention_name(const CustomOp *op) { return (void)op, "RingAttention"; }
static const char *any_provider(const CustomOp *op) { return (void)op, NULL; }

static size_t product_inputs(const CustomOp *op) { return (void)op, 6; }
static size_t one(const CustomOp *op) { return (void)op, 1; }
static int product_input(const CustomOp *op, size_t place) {
    static const int types[] = {FLOAT, UINT8, FLOAT16, FLOAT16, FLOAT, FLOAT};
    return (void)op, types[place];
}
static int product_input_kind(const CustomOp *op, size_t place) { return (void)op, place < 3 ? REQUIRED : OPTIONAL; }
static int always_float(const CustomOp *op, size_t place) { return (void)op, (void)place, FLOAT; }
static int always_required(const CustomOp *op, size_t place) { return (void)op, (void)place, REQUIRED; }

static const char *rows_name(const CustomOp *op) { return (void)op, "BlockRows"; }
static size_t rows_inputs(const CustomOp *op) { return (void)op, 4; }
static int rows_input(const CustomOp *op, size_t place) { return place ? product_input(op, place) : INT64; }

static size_t attention_inputs(const CustomOp *op) { return (void)op, 9; }
static size_t attention_outputs(const CustomOp *op) { return (void)op, 3; }
static int attention_input(const CustomOp *op, size_t place) {
    static const int types[] = {FLOAT, FLOAT16, FLOAT16, INT64, INT64, FLOAT, FLOAT, FLOAT, FLOAT};
    return (void)op, types[place];
}
static int attention_output(const CustomOp *op, size_t place) { return (void)op, place ? FLOAT16 : FLOAT; }

static const CustomOp operators[] = {
    {OP_VERSION, create_product, product_name, any_provider, product_input, product_inputs, always_float, one,
     compute_product, free, product_input_kind, always_required},
    {OP_VERSION, create_rows, rows_name, any_provider, rows_input, rows_inputs, always_float, one, compute_rows, free,
     product_input_kind, always_required},
    {OP_VERSION, create_attention, attention_name, any_provider, attention_input, attention_inputs, attention_output,
     attention_outputs, compute_attention, free, always_required, always_required},
};

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// The name of the kernels that this processor runs, the fastest at place 0; NULL beyond the last.
EXPORT const char *edgesink_kernels(size_t place) {
    const Kernels *found = supported_kernels(place);
    return found ? found->name : NULL;
}

// Take other kernels than the fastest, in every session of this process.
EXPORT void edgesink_choose_kernels(size_t place) { kernels = supported_kernels(place); }

enum { GROUP = 16 };

static void transpose_words(const uint8_t *rows, size_t row_bytes, size_t words, uint32_t *to) {
    for (size_t lane = 0; lane < GROUP; lane++)
        for (size_t i = 0; i < words; i++) to[i * GROUP + lane] = ((const uint32_t *)(rows + lane * row_bytes))[i];
}

static void transpose_halves(const uint8_t *rows, size_t row_bytes, size_t halves, half *to) {
    for (size_t lane = 0; lane < GROUP; lane++)
        for (size_t i = 0; i < halves; i++) to[i * GROUP + lane] = ((const half *)(rows + lane * row_bytes))[i];
}

// Rows of units of 4 or 2 bytes to sixteen side by side, [rows, row_bytes] -> [rows / 16, kept / unit, 16, unit]: whole
// groups of rows, of each row the first `kept` bytes. Both are aligned to units.
EXPORT void edgesink_side_by_side(const uint8_t *from, uint8_t *to, size_t rows, size_t row_bytes, size_t kept,
                                  size_t unit) {
    for (size_t row = 0; row < rows; row += GROUP, from += GROUP * row_bytes, to += GROUP * kept) {
        if (unit == 4) transpose_words(from, row_bytes, kept / 4, (uint32_t *)to);
        else transpose_halves(from, row_bytes, kept / 2, (half *)to);
    }
}

// Called by ONNX Runtime when the library is registered with a session's options.
EXPORT Handle RegisterCustomOps(Handle options, const ApiBase *base) {
    typedef Handle (*CreateStatus)(int, const char *);
    typedef Handle (*CreateDomain)(const char *, Handle *);
    typedef Handle (*Add)(Handle, const void *);
    api = base->get_api(API_VERSION);
    if (!kernels) kernels = supported_kernels(0);
    if (!api) return NULL;  // the graph then has operators that nobody knows, and loading it says so
    if (!kernels) return CALL(CREATE_STATUS, CreateStatus, FAILED, "edgesink's kernels do not run on this processor");
    static Handle domain;  // lives as long as the process, as every session that uses it may
    if (!domain) {
        Handle status = CALL(CREATE_CUSTOM_OP_DOMAIN, CreateDomain, "edgesink", &domain);
        for (size_t i = 0; !status && i < sizeof operators / sizeof *operators; i++)
            status = CALL(CUSTOM_OP_DOMAIN_ADD, Add, domain, operators + i);
        if (status) return status;
    }
    return CALL(ADD_CUSTOM_OP_DOMAIN, Add, options, domain);
}
