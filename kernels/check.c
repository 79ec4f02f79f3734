// Holds every set of kernels that this processor runs against sums in double, and lets hostile calls loose on it: for
// processors that only an emulator has, and under the compiler's sanitizers.
//
//   cc -O2 -std=gnu11 kernels/*.c -lm -o check && ./check
//   cc -g -O1 -std=gnu11 -fsanitize=address,undefined kernels/*.c -lm -o check && ./check
//   aarch64-linux-gnu-gcc -O2 -std=gnu11 -static kernels/*.c -lm -o check && qemu-aarch64 ./check
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

static uint32_t seed = 1;
double uniform(void) { return (double)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 24); }

// Of halves that are whole multiples of 1 / 1024 below 1, so that no rounding is needed.
static half half_of(double x) {
    int exponent = 0;
    if (x == 0) return 0;
    const double fraction = frexp(fabs(x), &exponent);  // [0.5, 1)
    return (half)((x < 0) << 15 | (exponent + 14) << 10 | (int)((fraction * 2 - 1) * 1024));
}

static double double_of(half h) {
    const double value = h & 0x7fff ? ldexp(1024 + (h & 1023), (h >> 10 & 31) - 25) : 0;
    return h >> 15 ? -value : value;
}

int compute_product(const Kernels *kernels, Product *p) {
    int done = (p->scratch = thread_scratch(OF_CALL, kernels->product_scratch_bytes(p))) != NULL;
    for (int64_t t = 0; done && t < p->tokens; t++) kernels->product_round(p, t);
    for (int64_t task = 0; done && task < kernels->product_tasks(p); task++) done = kernels->product_task(p, task);
    return done;
}

int compute_attention(const Kernels *kernels, Attention *a) {
    int done = (a->scratch = thread_scratch(OF_CALL, kernels->attention_scratch_bytes(a))) != NULL;
    for (int64_t t = 0; done && t < a->tokens; t++) kernels->attention_write(a, t);
    for (int64_t task = 0; done && task < kernels->attention_tasks(a); task++) done = kernels->attention_task(a, task);
    if (done) kernels->attention_merge(a);
    return done;
}

static double check_product(const Kernels *kernels, int bits, int64_t rows, int64_t columns, int64_t tokens) {
    const int64_t blocks = columns / BLOCK, groups = (rows + GROUP - 1) / GROUP;
    uint8_t *codes = malloc((size_t)(groups * GROUP * columns * bits / 8));
    half *scale = malloc((size_t)(groups * GROUP * blocks) * sizeof *scale);
    half *offset = malloc((size_t)(groups * GROUP * blocks) * sizeof *offset);
    float *x = malloc((size_t)(tokens * columns) * sizeof *x), *out = malloc((size_t)(tokens * rows) * sizeof *out);
    for (int64_t i = 0; i < groups * GROUP * columns * bits / 8; i++) codes[i] = (uint8_t)(uniform() * 256);
    for (int64_t i = 0; i < groups * GROUP * blocks; i++) {
        scale[i] = half_of(floor(uniform() * 100 + 1) / 1024);
        offset[i] = half_of(-floor(uniform() * 500) / 1024);
    }
    for (int64_t i = 0; i < tokens * columns; i++) x[i] = (float)(uniform() * 2 - 1);
    const Matrix weight = {codes, scale, bits == 4 ? offset : NULL, rows, columns, bits};
    Product p = {.weight = weight, .tokens = tokens, .x = x, .out = out};
    if (!compute_product(kernels, &p)) return INFINITY;
    double worst = 0, size = 0;
    float *row = malloc((size_t)columns * sizeof *row);
    for (int64_t n = 0; n < rows; n++) {
        kernels->matrix_row(&p.weight, n, row);
        for (int64_t t = 0; t < tokens; t++) {
            double sum = 0;
            for (int64_t k = 0; k < columns; k++) {
                const int64_t b = k / BLOCK, in = k % BLOCK, at = ((n / GROUP) * blocks + b) * GROUP + n % GROUP;
                const int64_t words = bits == 4 ? 4 : 8, byte = bits == 4 ? in / 2 : in;
                const int64_t word = ((n / GROUP) * blocks + b) * words + byte / 4;
                const uint8_t code = codes[(word * GROUP + n % GROUP) * 4 + byte % 4];
                const int value = bits == 8 ? code - 128 : in % 2 ? code >> 4 : code & 15;
                const double w = double_of(scale[at]) * value + (bits == 4 ? double_of(offset[at]) : 0);
                if (fabs(w - row[k]) > 1e-5) return INFINITY;
                sum += w * x[t * columns + k];
            }
            worst = fmax(worst, fabs(sum - out[t * rows + n]));
            size += fabs(sum) / (double)(rows * tokens);
        }
    }
    free(codes), free(scale), free(offset), free(x), free(out), free(row);
    return worst / size;
}

enum { HEADS = 6, KV_HEADS = 2, SHARE = HEADS / KV_HEADS, DIM = 48 };
enum { SINKS = 3, CAPACITY = 90, CHUNK = 20, ROWS = CAPACITY + CHUNK - 1, TOTAL = 300 };
static float qkv[TOTAL][HEADS + 2 * KV_HEADS][DIM];

static double rotated(const float *x, int d, double position) {
    const int pairs = DIM / 2, i = d % pairs;
    const double angle = position * pow(100, -(double)i / pairs);
    return d < pairs ? x[i] * cos(angle) - x[i + pairs] * sin(angle) : x[i + pairs] * cos(angle) + x[i] * sin(angle);
}

static double expected(int token, int head, int dim) {
    double weights[CAPACITY], sum = 0, total = 0;
    int seen = 0, tokens[CAPACITY];
    for (int j = 0; j <= token; j++)
        if (j < SINKS || j > token - (CAPACITY - SINKS)) tokens[seen++] = j;
    for (int i = 0; i < seen; i++) {
        const float *q = qkv[token][head], *k = qkv[tokens[i]][HEADS + head / SHARE];
        double score = 0;
        for (int d = 0; d < DIM; d++) score += rotated(q, d, seen - 1) * rotated(k, d, i);
        weights[i] = exp(score / sqrt(DIM));
        total += weights[i];
    }
    for (int i = 0; i < seen; i++) sum += weights[i] / total * qkv[tokens[i]][HEADS + KV_HEADS + head / SHARE][dim];
    return sum;
}

static double check_attention(const Kernels *kernels) {
    static half keys[KV_HEADS * ROWS * DIM], values[KV_HEADS * ROWS * DIM];
    static float phases[4][CHUNK][DIM / 2], context[CHUNK][HEADS][DIM];
    double worst = 0;
    for (int i = 0; i < TOTAL * (HEADS + 2 * KV_HEADS) * DIM; i++) (&qkv[0][0][0])[i] = (float)(uniform() * 4 - 2);
    for (int position = 0, size; position < TOTAL; position += size) {
        size = position % 3 ? 1 : CHUNK < TOTAL - position ? CHUNK : TOTAL - position;
        for (int t = 0; t < size; t++) {
            for (int i = 0; i < DIM / 2; i++) {
                const double speed = pow(100, -(double)i / (DIM / 2));
                const double here = (position + t) * speed, bounded = fmin(position + t, CAPACITY - 1) * speed;
                phases[0][t][i] = (float)cos(here), phases[1][t][i] = (float)sin(here);
                phases[2][t][i] = (float)cos(bounded), phases[3][t][i] = (float)sin(bounded);
            }
        }
        Attention a = {.tokens = size, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .rows = ROWS,
                       .capacity = CAPACITY, .position = position, .sinks = SINKS, .qkv = &qkv[position][0][0],
                       .cosine = &phases[0][0][0], .sine = &phases[1][0][0], .sink_cosine = &phases[2][0][0],
                       .sink_sine = &phases[3][0][0], .keys = keys, .values = values, .context = &context[0][0][0]};
        if (!compute_attention(kernels, &a)) return INFINITY;
        for (int head = 0; head < HEADS; head++)
            for (int d = 0; d < DIM; d += 7)
                worst = fmax(worst, fabs(context[size - 1][head][d] - expected(position + size - 1, head, d)));
    }
    return worst;
}

int main(void) {
    const Kernels *kernels;
    int failed = 0, sets = 0;
    for (; (kernels = supported_kernels((size_t)sets)); sets++) {
        double product = 0;
        for (int bits = 4; bits <= 8; bits += 4)
            for (int64_t tokens = 1; tokens <= 9; tokens += 4)
                product = fmax(product, check_product(kernels, bits, 37, 160, tokens));
        const double attention = check_attention(kernels);
        const Tries tries = try_hostile_calls(kernels);
        const int right = product < 2e-3 && attention < 5e-3 && tries.as_expected;
        printf("%s: products off by %.1e of their size, attention by %.1e", kernels->name, product, attention);
        printf(", %d hostile calls refused, %d computed: ", tries.refused, tries.computed);
        puts(right ? "passed" : "FAILED");
        failed += !right;
    }
    if (!sets) puts("no kernels run on this processor");
    return failed || !sets;
}
