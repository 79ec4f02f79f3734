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
    int done = (p->scratch = thread_scratch(OF_CALL, kernels->product->scratch_bytes(p))) != NULL;
    for (int64_t task = 0; done && task < kernels->product->rounds(p); task++) kernels->product->round(p, task);
    for (int64_t task = 0; done && task < kernels->product->tasks(p); task++) done = kernels->product->task(p, task);
    for (int64_t t = 0; done && p->after && t < p->tokens; t++) kernels->product->finish(p, t);
    return done;
}

int compute_attention(const Kernels *kernels, Attention *a) {
    int done = (a->scratch = thread_scratch(OF_CALL, kernels->attention->scratch_bytes(a))) != NULL;
    for (int64_t t = 0; done && t < a->tokens; t++) kernels->attention->write(a, t);
    for (int64_t task = 0; done && task < kernels->attention->tasks(a); task++) done = kernels->attention->task(a, task);
    if (done) kernels->attention->merge(a);
    return done;
}

static void fill(float *x, int count) {
    for (int i = 0; i < count; i++) x[i] = (float)(uniform() * 2 - 1);
}

const Layout layouts[LAYOUTS] = {
    {.bits = 4}, {.bits = 4, .offset = 1}, {.bits = 4, .offset = 1, .factors = 1},
    {.bits = 4, .table = 1}, {.bits = 4, .table = 1, .factors = 1},
    {.bits = 5}, {.bits = 5, .offset = 1}, {.bits = 5, .offset = 1, .factors = 1},
    {.bits = 6, .factors = 1}, {.bits = 8}, {.bits = 16}, {.bits = 16, .table = 1},
};

static void *random_bytes(int64_t count) {
    uint8_t *bytes = malloc((size_t)count);
    for (int64_t i = 0; i < count; i++) bytes[i] = (uint8_t)(uniform() * 256);
    return bytes;
}

static half *random_halves(int64_t count, double least, double most) {
    half *halves = malloc((size_t)count * sizeof *halves);
    for (int64_t i = 0; i < count; i++) halves[i] = half_of(floor((least + uniform() * (most - least)) * 1024) / 1024);
    return halves;
}

// Halves, or as bfloat16 the upper half of their floats.
static Matrix random_floats(const Layout *of, int64_t rows, int64_t columns) {
    const int64_t count = (rows + GROUP - 1) / GROUP * GROUP * columns;
    half *halves = random_halves(count, -1, 1);
    for (int64_t i = 0; of->table && i < count; i++) {
        const float x = (float)double_of(halves[i]);
        uint32_t bits;
        memcpy(&bits, &x, sizeof x);
        halves[i] = (half)(bits >> 16);
    }
    const void *codes = halves;
    return (Matrix){.codes = codes, .rows = rows, .columns = columns, .bits = 16, .table = of->table};
}

static Matrix random_matrix(const Layout *of, int64_t rows, int64_t columns) {
    if (of->bits == 16) return random_floats(of, rows, columns);
    const int64_t filled = (rows + GROUP - 1) / GROUP * GROUP;
    const int64_t halves = filled * columns / (of->factors ? SUPER : BLOCK);
    return (Matrix){
        .codes = random_bytes(filled * columns * of->bits / 8), .scale = random_halves(halves, 0.001, 0.1),
        .offset = of->offset ? random_halves(halves, -0.5, 0) : NULL,
        .factors = of->factors ? random_bytes(filled * columns / (of->bits == 6 ? 16 : 32)) : NULL,
        .offset_factors = of->factors && of->offset ? random_bytes(filled * columns / 32) : NULL,
        .rows = rows, .columns = columns, .bits = of->bits, .table = of->table,
    };
}

static void free_matrix(const Matrix *w) {
    free((void *)w->codes), free((void *)w->scale), free((void *)w->offset);
    free((void *)w->factors), free((void *)w->offset_factors);
}

static int code_of(const Matrix *w, int64_t block, int lane, int k) {
    const uint8_t *vectors = w->codes + (block * w->bits * GROUP + lane) * 4 + k % 4;
    enum { NEXT = GROUP * 4 };
    if (w->bits == 8) return vectors[k / 4 * NEXT];
    const int low = vectors[k % 16 / 4 * NEXT] >> k / 16 * 4 & 15;
    if (w->bits == 5) return low | (vectors[4 * NEXT] >> k / 4 & 1) << 4;
    if (w->bits == 6) return low | (vectors[(4 + k / 16) * NEXT] >> k % 16 / 4 * 2 & 3) << 4;
    return low;
}

static double value_of(const Matrix *w, int code) {
    static const int table[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return w->table ? table[code] : w->offset ? code : code - (1 << (w->bits - 1));
}

static float float_of(const Matrix *w, int64_t row, int64_t column) {
    const int64_t word = (row / GROUP * w->columns + column) / 2 * GROUP + row % GROUP;
    half found;
    memcpy(&found, w->codes + word * 4 + column % 2 * 2, sizeof found);
    const uint32_t bits = (uint32_t)found << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return w->table ? x : (float)double_of(found);
}

// As the definition has it, each product and the sum rounded to float.
static float weight_of(const Matrix *w, int64_t row, int64_t column) {
    if (w->bits == 16) return float_of(w, row, column);
    const int64_t block = row / GROUP * (w->columns / BLOCK) + column / BLOCK, parts = w->bits == 6 ? 2 : 1;
    const int64_t lane = row % GROUP, place = (w->factors ? block / 8 : block) * GROUP + lane;
    const int64_t part = block * parts + column % BLOCK * parts / BLOCK;
    const double scale = double_of(w->scale[place]) * (w->factors ? w->factors[part * GROUP + lane] : 1);
    const float product = (float)(scale * value_of(w, code_of(w, block, (int)lane, (int)(column % BLOCK))));
    if (!w->offset) return product;
    const int factor = w->factors ? w->offset_factors[block * GROUP + lane] : 1;
    return (float)((double)product + double_of(w->offset[place]) * factor);
}

// The larger of two errors, of which one that is no number is the largest.
static double worse(double a, double b) { return isnan(a) || isnan(b) ? INFINITY : fmax(a, b); }

// The largest error of a product, of the mean size of what it should be; infinite if a row is not what it should be.
static double check_product(const Kernels *kernels, const Layout *of, int64_t rows, int64_t tokens) {
    const int64_t columns = of->factors ? 2 * SUPER : 5 * BLOCK;
    const Matrix weight = random_matrix(of, rows, columns);
    float *x = malloc((size_t)(tokens * columns) * sizeof *x), *out = malloc((size_t)(tokens * rows) * sizeof *out);
    fill(x, (int)(tokens * columns));
    Product p = {.weight = weight, .tokens = tokens, .x = x, .out = out};
    if (!compute_product(kernels, &p)) return INFINITY;
    double worst = 0, size = 0;
    float *row = malloc((size_t)columns * sizeof *row);
    for (int64_t n = 0; n < rows; n++) {
        kernels->product->row(&p.weight, n, row);
        for (int64_t k = 0; k < columns; k++)
            if (row[k] != weight_of(&weight, n, k)) worst = INFINITY;
        for (int64_t t = 0; t < tokens; t++) {
            double sum = 0;
            for (int64_t k = 0; k < columns; k++) sum += (double)row[k] * x[t * columns + k];
            worst = worse(worst, fabs(sum - out[t * rows + n]));
            size += fabs(sum) / (double)(rows * tokens);
        }
    }
    free_matrix(&weight), free(x), free(out), free(row);
    return worst / size;
}

// A coarse product of two eights of tokens and one over, as it is defined: against sums in double of what blocks are
// rounded to, where they are rounded to 8 bits. One block in five is loud in the first eight, and in the second not enough.
static double check_coarse(const Kernels *kernels, const Layout *of) {
    enum { N = 37, T = 17, EIGHT = 8, MOST_COLUMNS = 2 * SUPER };
    static float x[T][MOST_COLUMNS], seen[T][MOST_COLUMNS], out[T][N], row[MOST_COLUMNS];
    const int64_t columns = of->factors ? 2 * SUPER : 10 * BLOCK;
    const Matrix weight = random_matrix(of, N, columns);
    fill(&x[0][0], T * MOST_COLUMNS);
    for (int t = 0; t < T; t++)
        for (int64_t b = 1; b < columns / BLOCK; b += 5) x[t][b * BLOCK + t] = t < EIGHT ? 30 : 2;
    memcpy(seen, x, sizeof x);
    for (int t = 0; t < 2 * EIGHT; t++)
        for (int64_t b = 0; b < columns / BLOCK && of->bits != 16; b++) {
            if (t < EIGHT && b % 5 == 1) continue;  // it is loud
            float largest = 0;
            for (int k = 0; k < BLOCK; k++) largest = fmaxf(largest, fabsf(x[t][b * BLOCK + k]));
            for (int k = 0; k < BLOCK; k++)
                seen[t][b * BLOCK + k] = rintf(x[t][b * BLOCK + k] * (127 / largest)) * (largest / 127);
        }
    float *packed = malloc((size_t)(T * columns) * sizeof *packed);
    for (int t = 0; t < T; t++) memcpy(packed + t * columns, x[t], (size_t)columns * sizeof *packed);
    Product p = {.weight = weight, .tokens = T, .x = packed, .coarse = 1, .out = &out[0][0]};
    double worst = compute_product(kernels, &p) ? 0 : INFINITY, size = 0;
    for (int64_t n = 0; n < N; n++) {
        kernels->product->row(&weight, n, row);
        for (int t = 0; t < T; t++) {
            double sum = 0;
            for (int64_t k = 0; k < columns; k++) sum += (double)row[k] * seen[t][k];
            worst = worse(worst, fabs(sum - out[t][n]));
            size += fabs(sum) / (N * T);
        }
    }
    free_matrix(&weight), free(packed);
    return worst / size;
}

// What is done to a product besides multiplying; each against the plain one, which has been checked.
static double check_parts(const Kernels *kernels) {
    enum { N = 64, K = 96, T = 3 };
    static uint8_t codes[N * K];
    static half scale[N * K / BLOCK];
    static float x[T][K], plain[T][N], out[T][N], bias[N], after[N], residual[T][N], gated[2][T][N / 2];
    for (int i = 0; i < N * K; i++) codes[i] = (uint8_t)(uniform() * 256);
    for (int i = 0; i < N * K / BLOCK; i++) scale[i] = half_of(floor(uniform() * 10 + 1) / 4096);
    fill(&x[0][0], T * K), fill(&residual[0][0], T * N), fill(bias, N), fill(after, N);
    const Matrix weight = {.codes = codes, .scale = scale, .rows = N, .columns = K, .bits = 8};
    Product p = {.weight = weight, .tokens = T, .x = x[0], .out = plain[0], .epsilon = 0.5f};
    int done = compute_product(kernels, &p);
    for (int in_turn = 0; in_turn < 2; in_turn++) {
        p.out = gated[in_turn][0], p.gated = GELU_TANH, p.in_turn = in_turn;
        done &= compute_product(kernels, &p);
    }
    p.out = out[0], p.gated = NO_GATE, p.in_turn = 0, p.bias = bias, p.after = after, p.residual = residual[0];
    done &= compute_product(kernels, &p);
    double worst = done ? 0 : INFINITY;
    for (int t = 0; t < T; t++) {
        double squares = 0;
        for (int n = 0; n < N; n++) squares += pow((double)plain[t][n] + bias[n], 2) / N;
        for (int n = 0; n < N; n++) {
            const double normed = ((double)plain[t][n] + bias[n]) / sqrt(squares + 0.5) * after[n];
            worst = worse(worst, fabs(normed + residual[t][n] - out[t][n]));
        }
        for (int i = 0; i < N; i++) {
            const int n = i % (N / 2), in_turn = i >= N / 2, row = in_turn ? n + n / GROUP * GROUP : n;
            const double z = plain[t][row], up = plain[t][row + (in_turn ? GROUP : N / 2)];
            const double expected = z / 2 * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))) * up;
            worst = worse(worst, fabs(expected - gated[in_turn][t][n]) / (1 + fabs(expected)));
        }
    }
    return worst;
}

enum { HEADS = 6, KV_HEADS = 2, SHARE = HEADS / KV_HEADS, DIM = 48, PAIRS = DIM / 2 };
enum { CAPACITY = 90, CHUNK = 20, ROWS = CAPACITY + CHUNK - 1, TOTAL = 300 };

// How a layer looks back. Pairs from `turning` on have frequency 0, and then no amplitude.
typedef struct {
    int sinks, capacity, turning;
    double amplitude, scale;
    const float *q_norm, *k_norm;
    int wide_keys;
    int border;  // the window of the ring with sinks begins at a multiple of it, where it has one; 0: anywhere
} Look;

static float qkv[TOTAL][HEADS + 2 * KV_HEADS][DIM];

static double angle_of(const Look *look, int pair, double position) {
    return pair < look->turning ? position * pow(100, -(double)pair / PAIRS) : 0;
}

static double amplitude_of(const Look *look, int pair) { return pair < look->turning ? look->amplitude : 1; }

// Dimension d of a head behind its norm, if there is one, turned to `position`.
static double turned(const Look *look, const float *x, const float *norm, int d, double position) {
    const int i = d % PAIRS;
    double squares = 0.25, low = x[i], high = x[i + PAIRS];
    for (int j = 0; j < DIM; j++) squares += (double)x[j] * x[j] / DIM;
    if (norm) low *= norm[i] / sqrt(squares), high *= norm[i + PAIRS] / sqrt(squares);
    const double angle = angle_of(look, i, position), size = amplitude_of(look, i);
    return size * (d < PAIRS ? low * cos(angle) - high * sin(angle) : high * cos(angle) + low * sin(angle));
}

// The first token of the window of `token`: where it can be, a border.
static int begins(const Look *look, int token) {
    const int first = token - (look->capacity - look->sinks) + 1;
    if (first <= look->sinks || !look->border) return first < 0 ? 0 : first;
    const int border = (first + look->border - 1) / look->border * look->border;
    return border <= token ? border : first;
}

static double expected(const Look *look, int token, int head, int dim) {
    double weights[CAPACITY], sum = 0, total = 0;
    int seen = 0, tokens[CAPACITY];
    for (int j = 0; j <= token; j++)
        if (j < look->sinks || j >= begins(look, token)) tokens[seen++] = j;
    for (int i = 0; i < seen; i++) {
        const float *q = qkv[token][head], *k = qkv[tokens[i]][HEADS + head / SHARE];
        const int at = token < look->capacity ? token : look->capacity - 1;  // of the query, as a sink sees it
        double score = 0;
        for (int d = 0; d < DIM; d++)
            score += turned(look, q, look->q_norm, d, at) *
                     turned(look, k, look->k_norm, d, tokens[i] < look->sinks ? tokens[i] : at - (token - tokens[i]));
        weights[i] = exp(score * look->scale);
        total += weights[i];
    }
    for (int i = 0; i < seen; i++) sum += weights[i] / total * qkv[tokens[i]][HEADS + KV_HEADS + head / SHARE][dim];
    return sum;
}

static double check_attention(const Kernels *kernels, const Look *look) {
    static float keys[KV_HEADS * ROWS * DIM];  // or halves
    static half values[KV_HEADS * ROWS * DIM];
    static float phases[4][CHUNK][PAIRS], context[CHUNK][HEADS][DIM];
    double worst = 0;
    for (int i = 0; i < TOTAL * (HEADS + 2 * KV_HEADS) * DIM; i++) (&qkv[0][0][0])[i] = (float)(uniform() * 4 - 2);
    for (int position = 0, size; position < TOTAL; position += size) {
        size = position % 3 ? 1 : CHUNK < TOTAL - position ? CHUNK : TOTAL - position;
        for (int t = 0; t < size; t++) {
            for (int i = 0; i < PAIRS; i++) {
                const double here = angle_of(look, i, position + t), size = amplitude_of(look, i);
                const double bounded = angle_of(look, i, fmin(position + t, look->capacity - 1));
                phases[0][t][i] = (float)(size * cos(here)), phases[1][t][i] = (float)(size * sin(here));
                phases[2][t][i] = (float)(size * cos(bounded)), phases[3][t][i] = (float)(size * sin(bounded));
            }
        }
        int64_t oldest[CHUNK];
        for (int t = 0; t < size; t++) oldest[t] = begins(look, position + t);
        Attention a = {
            .oldest = look->border ? oldest : NULL, .oldest_step = size > 1,
            .tokens = size, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .rows = look->capacity + CHUNK - 1,
            .capacity = look->capacity, .position = position, .sinks = look->sinks, .scale = (float)look->scale,
            .q_norm = look->q_norm, .k_norm = look->k_norm, .epsilon = 0.25f, .qkv = &qkv[position][0][0],
            .cosine = &phases[0][0][0], .sine = &phases[1][0][0], .sink_cosine = &phases[2][0][0],
            .sink_sine = &phases[3][0][0], .wide_keys = look->wide_keys, .keys = keys, .values = values, .context = &context[0][0][0],
        };
        if (!compute_attention(kernels, &a)) return INFINITY;
        for (int head = 0; head < HEADS; head++)
            for (int d = 0; d < DIM; d += 7)
                worst = worse(worst, fabs(context[size - 1][head][d] - expected(look, position + size - 1, head, d)));
    }
    return worst;
}

int main(void) {
    float norms[2][DIM];
    fill(&norms[0][0], 2 * DIM);
    const double usual = 1 / sqrt(DIM);
    const Look looks[] = {
        {3, CAPACITY, PAIRS, 1, usual, NULL, NULL, 0, 0},         // Llama's
        {3, CAPACITY, PAIRS, 1, usual, NULL, NULL, 1, 0},         // with keys in floats
        {3, CAPACITY, PAIRS / 2, 1.2, 0.1, NULL, NULL, 0, 0},     // heads that turn in part
        {0, 40, PAIRS, 1, usual, norms[0], norms[1], 0, 0},       // a sliding window of the layer's own
        {3, CAPACITY, 0, 1, 2 * usual, norms[0], NULL, 0, 0},     // no positions
        {0, CHUNK, PAIRS, 0.8, usual / 2, NULL, norms[1], 1, 0},  // as long as a chunk
        {3, CAPACITY, PAIRS, 1, usual, NULL, NULL, 0, 23},        // a window that begins at borders
    };
    const Kernels *kernels;
    int failed = 0, sets = 0;
    for (; (kernels = supported_kernels((size_t)sets)); sets++) {
        double product = 0;
        for (int i = 0; i < LAYOUTS; i++)
            for (int64_t tokens = 1; tokens <= 9; tokens++)
                product = worse(product, check_product(kernels, layouts + i, 37, tokens));
        for (int i = 0; i < LAYOUTS; i++) product = worse(product, check_coarse(kernels, layouts + i));
        product = worse(product, check_parts(kernels));
        double attention = 0;
        for (size_t i = 0; i < sizeof looks / sizeof *looks; i++)
            attention = worse(attention, check_attention(kernels, looks + i));
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
