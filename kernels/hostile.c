// Calls of the operators as a damaged graph, a hostile session file or a careless host makes them: each is refused, or
// computed within its memory. Every buffer is allocated at exactly its size, so that a sanitizer sees a byte too far.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "check.h"

enum { TRIES = 4000, MOST_INPUTS = ATTENTION_INPUTS, MOST_RANK = 4, MOST_ELEMENTS = 1 << 16 };

// An input as the operator wants it, and then perhaps not.
typedef struct {
    size_t rank, element_bytes;
    int64_t sizes[MOST_RANK];
    int64_t number;  // what every element is where they are whole numbers
} Input;

static int64_t any(int64_t most) { return (int64_t)(uniform() * (double)most); }

// Whole numbers that break something, and some near `usual`.
static int64_t hostile(int64_t usual) {
    static const int64_t numbers[] = {
        INT64_MIN, -MOST, -1000, -17, -1, 0, 1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 64, 500, 4096,
        (int64_t)1 << 31, MOST - 1, MOST, (int64_t)1 << 62, INT64_MAX - 1, INT64_MAX,
    };
    const int64_t count = sizeof numbers / sizeof *numbers, i = any(count + 6);
    return i < count ? numbers[i] : (int64_t)((uint64_t)usual + (uint64_t)(i - count - 3));  // of a spoiled one as well
}

// The same of other numbers.
static float hostile_float(void) {
    static const float numbers[] = {NAN, INFINITY, -INFINITY, -1, -0.0f, 0, 1e-40f, 1, 3e38f};
    return numbers[any(sizeof numbers / sizeof *numbers)];
}

static int64_t elements(const Input *x) {
    int64_t count = 1;
    for (size_t axis = 0; axis < x->rank; axis++) {
        if (x->sizes[axis] < 0 || x->sizes[axis] > MOST_ELEMENTS) return -1;
        count *= x->sizes[axis];
        if (count > MOST_ELEMENTS) return -1;
    }
    return count;
}

// What memory can hold: a tensor of another shape, or one that is left out.
static void spoil_shape(Input *x) {
    Input other = *x;
    if (any(4) == 0) other.rank = (size_t)any(MOST_RANK + 1);
    int64_t *size = other.sizes + any((int64_t)other.rank);
    if (other.rank) *size = hostile(*size);
    if (elements(&other) >= 0) *x = other;
    if (any(8) == 0) x->element_bytes = 0;
}

static Tensor allocated(const Input *x) {
    if (!x->element_bytes) return (Tensor){0};
    const size_t count = (size_t)elements(x), bytes = count * x->element_bytes;
    const Elements of = x->element_bytes == 2 ? HALVES : x->element_bytes == 4 ? FLOATS : OTHERS;
    Tensor made = {.given = 1, .elements = of, .rank = x->rank, .sizes = x->sizes, .data = malloc(bytes ? bytes : 1)};
    if (!made.data) abort();
    if (x->element_bytes < 4) memset(made.data, 0x33, bytes);  // codes of 3; halves of 0.22
    for (size_t i = 0; i < count && x->element_bytes == 4; i++) ((float *)made.data)[i] = (float)(uniform() - 0.5);
    for (size_t i = 0; i < count && x->element_bytes == 8; i++) ((int64_t *)made.data)[i] = x->number;
    return made;
}

static void free_all(Tensor *inputs, size_t count) {
    for (size_t i = 0; i < count; i++) free(inputs[i].data);
}

// A product or a look-up of 40 rows and 64 columns, with factors 256; half of products coarse, a third gated, a third with
// a norm after them; `options` and inputs are spoiled `times` times.
static const char *try_matrix(const Kernels *kernels, int look_up, int times) {
    const Layout *of = layouts + any(LAYOUTS);
    const int64_t tokens = 1 + any(any(8) ? 9 : 30), kind = look_up ? 2 : any(3), columns = of->factors ? SUPER : 64;
    const int64_t gated = kind ? NO_GATE : 1 + any(4), after = kind == 1, rows = gated || after ? 64 : 40;
    const int64_t groups = (rows + GROUP - 1) / GROUP, width = gated ? rows / 2 : rows;
    const int64_t blocks = columns / BLOCK, halves = of->factors ? 1 : blocks, parts = of->bits == 6 ? 2 : 1;
    MatrixOptions options = {
        .rows = rows, .columns = columns, .bits = of->bits, .table = of->table, .gated = gated, .epsilon = 1e-5f,
        .coarse = any(2),
    };
    const Input factors = {3, of->factors ? 1 : 0, {groups, blocks * parts, GROUP}, 0};
    const Input offset_factors = {3, of->factors && of->offset ? 1 : 0, {groups, blocks, GROUP}, 0};
    Input wanted[MOST_INPUTS] = {
        {3, 4, {1, tokens, columns}, 0}, {4, 1, {groups, blocks * of->bits, GROUP, 4}, 0},
        {3, of->bits == 16 ? 0 : 2, {groups, halves, GROUP}, 0}, {3, of->offset ? 2 : 0, {groups, halves, GROUP}, 0},
        {1, after ? 0 : 4, {columns}, 0}, {3, 4, {1, tokens, width}, 0},
        {1, gated ? 0 : 4, {rows}, 0}, {1, after ? 4 : 0, {rows}, 0}, factors, offset_factors,
    };
    if (look_up) wanted[0] = (Input){2, 8, {1, tokens}, any(rows)}, wanted[4] = factors, wanted[5] = offset_factors;
    int64_t *numbers[] = {&options.rows, &options.columns, &options.bits, &options.table, &options.gated,
                          &options.coarse, &wanted[0].number};
    const size_t count = look_up ? ROWS_INPUTS : PRODUCT_INPUTS;
    for (int i = 0; i < times; i++) {
        if (any(16) == 0) {
            options.epsilon = hostile_float();
        } else if (any(2)) {
            int64_t *number = numbers[any(7)];
            *number = hostile(*number);
        } else {
            spoil_shape(wanted + any((int64_t)count));
        }
    }
    Tensor inputs[MOST_INPUTS];
    for (size_t i = 0; i < count; i++) inputs[i] = allocated(wanted + i);
    Product p;
    Lookup l;
    const char *why = look_up ? rows_call(&options, inputs, &l) : product_call(&options, inputs, &p);
    if (!why && look_up) {
        float *out = malloc((size_t)l.weight.columns * sizeof *out);
        for (int64_t t = 0; t < l.tokens; t++) kernels->product->row(&l.weight, l.ids[t], out);
        free(out);
    } else if (!why) {
        p.out = malloc((size_t)(p.tokens * product_width(&p)) * sizeof *p.out);
        if (!compute_product(kernels, &p)) why = "no memory";
        free(p.out);
    }
    free_all(inputs, count);
    return why;
}

static const char *try_attention(const Kernels *kernels, int times) {
    const int64_t tokens = any(2) ? 1 : 1 + any(24), kv_heads = 1 + any(3), heads = kv_heads * (1 + any(3)), dim = 32;
    const int64_t capacity = any(4) ? 40 : 300, rows = capacity + 24 - 1, pairs = dim / 2;
    const int64_t position = any(1000);
    AttentionOptions options = {heads, capacity, any(2), any(2) ? 0.5f : 0, 1e-5f};
    const Input phase = {3, 4, {1, tokens, pairs}, 0};
    Input wanted[ATTENTION_INPUTS] = {
        {3, 4, {1, tokens, (heads + 2 * kv_heads) * dim}, 0}, {4, any(2) ? 2 : 4, {1, kv_heads, rows, dim}, 0},
        {4, 2, {1, kv_heads, rows, dim}, 0}, {1, 8, {1}, position}, {1, 8, {1}, any(5)}, phase, phase, phase, phase,
        {1, any(2) ? 4 : 0, {dim}, 0}, {1, any(2) ? 4 : 0, {dim}, 0},
        {1, any(2) ? 8 : 0, {any(2) ? 1 : tokens}, any(position + 1)},
        {1, any(2) ? 8 : 0, {1}, 1 + any(2)},
    };
    int64_t *numbers[] = {
        &options.heads, &options.capacity, &options.coarse, &wanted[3].number, &wanted[4].number, &wanted[11].number,
        &wanted[12].number,
    };
    for (int i = 0; i < times; i++) {
        const int64_t what = any(4);
        if (any(16) == 0) {
            *(any(2) ? &options.scale : &options.epsilon) = hostile_float();
        } else if (what < 2) {
            int64_t *number = numbers[any(sizeof numbers / sizeof *numbers)];
            *number = hostile(*number);
        } else if (what == 2) {
            spoil_shape(wanted + any(ATTENTION_INPUTS));
        } else if (any(2)) {  // buffers of another shape, alike
            const size_t value_bytes = wanted[2].element_bytes;
            spoil_shape(wanted + 1);
            wanted[2] = wanted[1];
            wanted[2].element_bytes = value_bytes;
        } else {  // buffers laid out for a young stream
            wanted[1].sizes[2] = wanted[2].sizes[2] = 1 + any(rows + 4);
            wanted[3].number = any(rows);
        }
    }
    Tensor inputs[ATTENTION_INPUTS];
    for (size_t i = 0; i < ATTENTION_INPUTS; i++) inputs[i] = allocated(wanted + i);
    const int is_odd = times && any(8) == 0;  // keys of another type, as bfloat16
    if (is_odd) inputs[1].elements = OTHERS;
    Attention a;
    const char *why = attention_call(&options, inputs, &a);
    if (!why) {
        a.keys = inputs[1].data, a.values = inputs[2].data;
        a.context = malloc((size_t)(a.tokens * a.heads * a.head_dim) * sizeof *a.context);
        if (!compute_attention(kernels, &a)) why = "no memory";
        free(a.context);
    }
    free_all(inputs, ATTENTION_INPUTS);
    return why;
}

static const char *try_one(const Kernels *kernels, int operator, int times) {
    return operator == 2 ? try_attention(kernels, times) : try_matrix(kernels, operator, times);
}

// A task that finds no memory says so and has touched nothing; the next one finds some.
static int misses_memory(const Kernels *kernels) {
    const Product endless = {.weight = {.rows = GROUP, .columns = BLOCK, .bits = 4}, .tokens = (int64_t)1 << 54};
    const int missed = !kernels->product->task(&endless, 0) && !thread_scratch(OF_CALL, (size_t)1 << 62);
    return missed && thread_scratch(OF_CALL, 1) && thread_scratch(OF_TASK, 1);
}

Tries try_hostile_calls(const Kernels *kernels) {
    Tries tries = {.as_expected = misses_memory(kernels)};
    for (int operator = 0; operator < 3; operator++) {
        int refused = 0, computed = 0;
        for (int i = 0; i < TRIES; i++) {
            const int times = i % 4;  // unspoiled ones must be computed
            const char *why = try_one(kernels, operator, times);
            refused += why != NULL, computed += !why;
            tries.as_expected &= !why || times > 0;
        }
        tries.as_expected &= refused > TRIES / 4 && computed > TRIES / 4;
        tries.refused += refused, tries.computed += computed;
    }
    return tries;
}
