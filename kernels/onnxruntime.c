// The operators of domain `edgesink` as ONNX Runtime's custom operators, and the entry that registers them.
//
//   BlockProduct(x, codes, scale?, offset?, norm?, residual?, bias?, after?, factors?, offset_factors?) -> y
//     x float [1, T, K]; codes, scale, offset, factors as `Matrix` in kernels.h, uint8, float16 and int8; norm float
//     [K]; residual and y float [1, T, N], gated [1, T, N / 2]; bias and after float [N]. As `Product`.
//     Attributes: rows (N), bits, table (left out: 0), gated (a `Gate`, and 2 more where rows lie in turn), epsilon (of
//     `norm` or `after`), coarse (left out: 0; in a session with the configuration entry "edgesink.exact" 0 throughout).
//   BlockRows(ids, codes, scale?, offset?, factors?, offset_factors?) -> y
//     ids int64 [1, T]; y float [1, T, K], those rows of the weights. Attributes: rows (N), columns (K), bits, table.
//   RingAttention(qkv, key, value, position, sinks, cos, sin, sink_cos, sink_sin, q_norm?, k_norm?, oldest?,
//       logit_rows?)
//       -> context, key, value
//     qkv float [1, T, (H + 2 K) D]; key float16 or float, value float16, [1, K, rows, D] each, to be bound to the memory
//     of their outputs; position, sinks and logit_rows int64 [1], oldest int64 [1] or [T]; phases float [1, T, D / 2];
//     norms float [D]; where logit_rows is 1, the pass `is_read`; context float [1, T, H D].
//     Attributes: heads, capacity, scale (left out: 1 / sqrt(D)), epsilon (of the norms), coarse (as above). As
//     `Attention` in kernels.h.
//
// A call that cannot be, and one that finds no memory, ends with a status that says so. Threads are the session's own.
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "exported.h"
#include "ort_abi.h"

static const OrtFunction *api;
static const Kernels *kernels;

static OrtStatus refused(const char *why) {
    char words[200];
    snprintf(words, sizeof words, "edgesink refuses the call: %s", why);
    return ORT(api, CreateStatus)(ORT_INVALID_ARGUMENT, words);
}

static OrtStatus no_memory(void) { return ORT(api, CreateStatus)(ORT_FAIL, "edgesink finds no memory to work in"); }

#define TRY(expression)                      \
    do {                                     \
        const OrtStatus status_ = expression; \
        if (status_) return status_;         \
    } while (0)

static OrtStatus read_input(OrtHandle context, size_t place, Tensor *to) {
    OrtHandle value = NULL;
    int type;
    *to = (Tensor){0};
    TRY(ORT(api, KernelContext_GetInput)(context, place, &value));
    if (!value) return NULL;
    to->given = 1;
    TRY(ORT(api, GetTensorElementTypeAndShapeDataReference)(value, &type, &to->sizes, &to->rank));
    to->elements = type == ORT_FLOAT16 ? HALVES : type == ORT_FLOAT ? FLOATS : OTHERS;
    return ORT(api, GetTensorMutableData)(value, &to->data);
}

static OrtStatus read_inputs(OrtHandle context, size_t count, Tensor *inputs) {
    for (size_t place = 0; place < count; place++) TRY(read_input(context, place, inputs + place));
    return NULL;
}

// Memory of an output; `to` is a pointer of any type.
static OrtStatus make_output(OrtHandle context, size_t place, const int64_t *sizes, size_t rank, void *to) {
    OrtHandle value = NULL;
    void *data = NULL;
    TRY(ORT(api, KernelContext_GetOutput)(context, place, sizes, rank, &value));
    if (!value) return refused("an output is left out");
    TRY(ORT(api, GetTensorMutableData)(value, &data));
    memcpy(to, &data, sizeof data);
    return NULL;
}

// A call that several threads work at.
typedef struct {
    union {
        Product product;
        Attention attention;
    };
    atomic_int no_memory;  // a task found none
} Call;

static OrtStatus parallel(OrtHandle context, int64_t tasks, void (*task)(void *, size_t), Call *call) {
    if (tasks == 1) {
        task(call, 0);
    } else {
        TRY(ORT(api, KernelContext_ParallelFor)(context, task, (size_t)tasks, 0, call));
    }
    return call->no_memory ? no_memory() : NULL;
}

// ---- BlockProduct

static OrtStatus attribute(OrtHandle info, const char *name, int64_t *value) {
    return ORT(api, KernelInfoGetAttribute_int64)(info, name, value);
}

// Of an attribute that was asked for as what it should be, and as another type: all is well if there is none.
static OrtStatus unless_absent(OrtStatus wanted, OrtStatus other) {
    const int absent = wanted && other;
    if (other) ORT(api, ReleaseStatus)(other);
    if (absent) ORT(api, ReleaseStatus)(wanted);
    return absent ? NULL : wanted;
}

// `value` stays as it is where the node has no such attribute.
static OrtStatus optional_float(OrtHandle info, const char *name, float *value) {
    float found = *value;
    int64_t other;
    const OrtStatus status = ORT(api, KernelInfoGetAttribute_float)(info, name, &found);
    if (!status) return *value = found, NULL;
    return unless_absent(status, attribute(info, name, &other));
}

static OrtStatus optional_integer(OrtHandle info, const char *name, int64_t *value) {
    int64_t found = *value;
    float other;
    const OrtStatus status = attribute(info, name, &found);
    if (!status) return *value = found, NULL;
    return unless_absent(status, ORT(api, KernelInfoGetAttribute_float)(info, name, &other));
}

static OrtStatus read_matrix_options(OrtHandle info, MatrixOptions *to) {
    TRY(attribute(info, "rows", &to->rows));
    TRY(attribute(info, "bits", &to->bits));
    return optional_integer(info, "table", &to->table);
}

static OrtStatus read_product_options(OrtHandle info, MatrixOptions *to) {
    TRY(read_matrix_options(info, to));
    TRY(attribute(info, "gated", &to->gated));
    TRY(optional_integer(info, "coarse", &to->coarse));
    return ORT(api, KernelInfoGetAttribute_float)(info, "epsilon", &to->epsilon);
}

static OrtStatus read_rows_options(OrtHandle info, MatrixOptions *to) {
    TRY(read_matrix_options(info, to));
    return attribute(info, "columns", &to->columns);
}

// What a node's attributes say, kept as long as its session.
static OrtStatus keep(const void *options, size_t bytes, void **kernel) {
    *kernel = malloc(bytes);
    if (!*kernel) return no_memory();
    memcpy(*kernel, options, bytes);
    return NULL;
}

static OrtStatus create_product(const OrtCustomOp *op, const OrtFunction *of, OrtHandle info, void **kernel) {
    (void)op, (void)of;
    MatrixOptions options = {0};
    TRY(read_product_options(info, &options));
    return keep(&options, sizeof options, kernel);
}

static OrtStatus create_exact_product(const OrtCustomOp *op, const OrtFunction *of, OrtHandle info, void **kernel) {
    TRY(create_product(op, of, info, kernel));
    MatrixOptions *options = *kernel;
    if (options->coarse == 1) options->coarse = 0;  // what it may not be is refused in every session
    return NULL;
}

static void round_tokens(void *of, size_t task) {
    Call *call = of;
    kernels->product->round(&call->product, (int64_t)task);
}

static void finish_token(void *of, size_t token) {
    Call *call = of;
    kernels->product->finish(&call->product, (int64_t)token);
}

static void multiply(void *of, size_t task) {
    Call *call = of;
    if (!kernels->product->task(&call->product, (int64_t)task)) call->no_memory = 1;
}

static OrtStatus compute_product(void *options, OrtHandle context) {
    Tensor inputs[PRODUCT_INPUTS];
    Call call = {.no_memory = 0};
    Product *p = &call.product;
    TRY(read_inputs(context, PRODUCT_INPUTS, inputs));
    const char *why = product_call(options, inputs, p);
    if (why) return refused(why);
    TRY(make_output(context, 0, (const int64_t[]){1, p->tokens, product_width(p)}, 3, &p->out));
    p->scratch = thread_scratch(OF_CALL, kernels->product->scratch_bytes(p));
    if (!p->scratch) return no_memory();
    TRY(parallel(context, kernels->product->rounds(p), round_tokens, &call));
    TRY(parallel(context, kernels->product->tasks(p), multiply, &call));
    return p->after ? parallel(context, p->tokens, finish_token, &call) : NULL;
}

// ---- BlockRows

static OrtStatus create_rows(const OrtCustomOp *op, const OrtFunction *of, OrtHandle info, void **kernel) {
    (void)op, (void)of;
    MatrixOptions options = {0};
    TRY(read_rows_options(info, &options));
    return keep(&options, sizeof options, kernel);
}

static OrtStatus compute_rows(void *options, OrtHandle context) {
    Tensor inputs[ROWS_INPUTS];
    Lookup l;
    float *out;
    TRY(read_inputs(context, ROWS_INPUTS, inputs));
    const char *why = rows_call(options, inputs, &l);
    if (why) return refused(why);
    TRY(make_output(context, 0, (const int64_t[]){1, l.tokens, l.weight.columns}, 3, &out));
    for (int64_t t = 0; t < l.tokens; t++) kernels->product->row(&l.weight, l.ids[t], out + t * l.weight.columns);
    return NULL;
}

// ---- RingAttention

static OrtStatus create_attention(const OrtCustomOp *op, const OrtFunction *of, OrtHandle info, void **kernel) {
    (void)op, (void)of;
    AttentionOptions options = {.scale = 0, .epsilon = -1};
    TRY(attribute(info, "heads", &options.heads));
    TRY(attribute(info, "capacity", &options.capacity));
    TRY(optional_float(info, "scale", &options.scale));
    TRY(optional_float(info, "epsilon", &options.epsilon));
    TRY(optional_integer(info, "coarse", &options.coarse));
    return keep(&options, sizeof options, kernel);
}

static OrtStatus create_exact_attention(const OrtCustomOp *op, const OrtFunction *of, OrtHandle info, void **kernel) {
    TRY(create_attention(op, of, info, kernel));
    AttentionOptions *options = *kernel;
    if (options->coarse == 1) options->coarse = 0;
    return NULL;
}

static void attend(void *of, size_t task) {
    Call *call = of;
    if (!kernels->attention->task(&call->attention, (int64_t)task)) call->no_memory = 1;
}

// The output that a state is written to: the memory of the input where the two are bound together, else a copy.
static OrtStatus make_state(OrtHandle context, size_t place, const Tensor *given, void **to) {
    const int64_t *sizes = given->sizes;
    const size_t bytes = given->elements == FLOATS ? sizeof(float) : sizeof(half);
    TRY(make_output(context, place, sizes, given->rank, to));
    if (given->data != *to) memcpy(*to, given->data, (size_t)(sizes[1] * sizes[2] * sizes[3]) * bytes);
    return NULL;
}

static OrtStatus compute_attention(void *options, OrtHandle context) {
    Tensor inputs[ATTENTION_INPUTS];
    Call call = {.no_memory = 0};
    Attention *a = &call.attention;
    TRY(read_inputs(context, ATTENTION_INPUTS, inputs));
    const char *why = attention_call(options, inputs, a);
    if (why) return refused(why);
    a->scratch = thread_scratch(OF_CALL, kernels->attention->scratch_bytes(a));
    if (!a->scratch) return no_memory();
    TRY(make_output(context, 0, (const int64_t[]){1, a->tokens, a->heads * a->head_dim}, 3, &a->context));
    void *values;
    TRY(make_state(context, 1, inputs + 1, &a->keys));
    TRY(make_state(context, 2, inputs + 2, &values));
    a->values = values;
    for (int64_t token = 0; token < a->tokens; token++) kernels->attention->write(a, token);
    TRY(parallel(context, kernels->attention->tasks(a), attend, &call));
    kernels->attention->merge(a);
    return NULL;
}

// ---- how they are declared

static const char *product_name(const OrtCustomOp *op) { return (void)op, "BlockProduct"; }
static const char *rows_name(const OrtCustomOp *op) { return (void)op, "BlockRows"; }
static const char *attention_name(const OrtCustomOp *op) { return (void)op, "RingAttention"; }
static const char *any_provider(const OrtCustomOp *op) { return (void)op, NULL; }

static size_t one(const OrtCustomOp *op) { return (void)op, 1; }
static size_t three(const OrtCustomOp *op) { return (void)op, 3; }
static size_t product_inputs(const OrtCustomOp *op) { return (void)op, PRODUCT_INPUTS; }
static size_t rows_inputs(const OrtCustomOp *op) { return (void)op, ROWS_INPUTS; }
static size_t attention_inputs(const OrtCustomOp *op) { return (void)op, ATTENTION_INPUTS; }

static int product_input(const OrtCustomOp *op, size_t place) {
    static const int types[] = {ORT_FLOAT, ORT_UINT8, ORT_FLOAT16, ORT_FLOAT16, ORT_FLOAT,
                                ORT_FLOAT, ORT_FLOAT, ORT_FLOAT,   ORT_INT8,    ORT_INT8};
    return (void)op, types[place];
}
static int rows_input(const OrtCustomOp *op, size_t place) {
    static const int types[] = {ORT_INT64, ORT_UINT8, ORT_FLOAT16, ORT_FLOAT16, ORT_INT8, ORT_INT8};
    return (void)op, types[place];
}
static int attention_input(const OrtCustomOp *op, size_t place) {
    static const int types[] = {ORT_FLOAT, ORT_ANY,   ORT_FLOAT16, ORT_INT64, ORT_INT64,
                                ORT_FLOAT, ORT_FLOAT,   ORT_FLOAT,   ORT_FLOAT, ORT_FLOAT, ORT_FLOAT, ORT_INT64, ORT_INT64};
    return (void)op, types[place];
}
static int attention_output(const OrtCustomOp *op, size_t place) {
    static const int types[] = {ORT_FLOAT, ORT_ANY, ORT_FLOAT16};
    return (void)op, types[place];
}
static int always_float(const OrtCustomOp *op, size_t place) { return (void)op, (void)place, ORT_FLOAT; }

static int needs_weights(const OrtCustomOp *op, size_t place) {
    return (void)op, place < 2 ? ORT_REQUIRED : ORT_OPTIONAL;
}
static int needs_phases(const OrtCustomOp *op, size_t place) {
    return (void)op, place < 9 ? ORT_REQUIRED : ORT_OPTIONAL;
}
static int always_required(const OrtCustomOp *op, size_t place) { return (void)op, (void)place, ORT_REQUIRED; }
static int any_memory(const OrtCustomOp *op, size_t place) { return (void)op, (void)place, ORT_MEMORY_DEFAULT; }

#define EVERY_OPERATOR                                                                          \
    .version = ORT_CUSTOM_OP_VERSION, .provider = any_provider, .destroy = free,                \
    .output_characteristic = always_required, .input_memory = any_memory

#define PRODUCT_OPERATOR                                                                        \
    EVERY_OPERATOR, .name = product_name, .inputs = product_inputs, .input_type = product_input, \
    .input_characteristic = needs_weights, .outputs = one, .output_type = always_float, .compute = compute_product

#define ATTENTION_OPERATOR                                                                         \
    EVERY_OPERATOR, .name = attention_name, .inputs = attention_inputs, .input_type = attention_input, \
    .input_characteristic = needs_phases, .outputs = three, .output_type = attention_output, .compute = compute_attention

// Of a session that may be coarse, and of one that is exact.
static const OrtCustomOp products[] = {
    {PRODUCT_OPERATOR, .create = create_product},
    {PRODUCT_OPERATOR, .create = create_exact_product},
};
static const OrtCustomOp attentions[] = {
    {ATTENTION_OPERATOR, .create = create_attention},
    {ATTENTION_OPERATOR, .create = create_exact_attention},
};

static const OrtCustomOp rows = {
    EVERY_OPERATOR, .name = rows_name, .inputs = rows_inputs, .input_type = rows_input,
    .input_characteristic = needs_weights, .outputs = one, .output_type = always_float,
    .create = create_rows, .compute = compute_rows,
};

const char *edgesink_kernels(size_t place) {
    const Kernels *found = supported_kernels(place);
    return found ? found->name : NULL;
}

void edgesink_choose_kernels(size_t place) {
    const Kernels *found = supported_kernels(place);
    if (found) kernels = found;
}

// Called by ONNX Runtime when the library is registered with a session's options.
EXPORT OrtStatus RegisterCustomOps(OrtHandle options, const OrtApiBase *base) {
    api = base->get_api(ORT_OPERATORS_API);
    if (!api) {
        const OrtFunction *first = base->get_api(1);  // every version has it
        return ORT(first, CreateStatus)(ORT_FAIL, "edgesink's operators need ONNX Runtime 1.24 or newer");
    }
    if (!kernels) kernels = supported_kernels(0);
    if (!kernels) return ORT(api, CreateStatus)(ORT_FAIL, "edgesink's kernels do not run on this processor");
    static OrtHandle domains[2];  // they live as long as the process, as every session that uses one may
    int exact = 0;
    TRY(ORT(api, HasSessionConfigEntry)(options, "edgesink.exact", &exact));
    OrtHandle *domain = domains + (exact != 0);
    if (!*domain) {
        OrtHandle made = NULL;
        TRY(ORT(api, CreateCustomOpDomain)("edgesink", &made));
        const OrtCustomOp *operators[] = {products + (exact != 0), attentions + (exact != 0), &rows};
        for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
            TRY(ORT(api, CustomOpDomain_Add)(made, operators[i]));
        *domain = made;
    }
    return ORT(api, AddCustomOpDomain)(options, *domain);
}
