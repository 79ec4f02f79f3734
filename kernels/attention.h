// Attention over the sink + window ring, in the words of simd.h: rows are visited in the order of their tokens, a tile
// at a time, with the softmax carried along (Milakov and Gimelshein 2018), so nothing is as long as the ring and rows
// that no query sees are never read. A few tokens are attended to one by one: what a token sees is then summed in the
// same order whether it comes alone or behind others, and its context has the same bits.
#pragma once

#include <math.h>

#include "kernels.h"
#include "norm.h"
#include "simd.h"

enum {
    TILE_ROWS = 64,
    SPAN_ROWS = 128,   // of one token's task, at least
    MOST_SPANS = 16,   // that one token's rows are cut into, at most
    MOST_FEW = 8,      // queries that share rows without a transposed tile
    TASK_QUERIES = 96, // of a chunk
    FEW = 3,           // queries that are worked on at once along a row
    DEEP = 4,          // queries that are worked on at once in a tile
    WIDE = 4,          // vectors
};


// How one call is cut into tasks. The queries of a key/value head are those of its G heads, token by token.
typedef struct {
    int64_t groups;         // G
    int64_t queries;        // T G, of a key/value head
    int64_t seen_sinks;     // sink rows that hold a token
    int64_t first;          // the oldest token of the window that a query sees
    int64_t seen;           // rows visited: seen_sinks, and from `first` to the newest token
    int64_t query_parts, spans;
    float *window, *sink;   // [K, T G, D], queries rotated and scaled
    float *partial;         // [K, T G, spans, D + 2]: a weighted sum of values, the largest score, the sum of weights
} Plan;

// The oldest token of the window of new token t; later tokens' windows begin no earlier. Sinks are no part of it.
static int64_t window_begins(const Attention *a, int64_t t) {
    const int64_t begins = a->position + t - (a->capacity - a->sinks) + 1;
    const int64_t oldest = a->oldest ? a->oldest[t * a->oldest_step] : 0;
    return begins > oldest ? begins : oldest;
}

static Plan plan(const Attention *a) {
    Plan p = {.groups = a->heads / a->kv_heads};
    const int64_t end = a->position + a->tokens, begins = window_begins(a, 0);
    p.queries = a->tokens * p.groups;
    p.seen_sinks = end < a->sinks ? end : a->sinks;
    p.first = begins > a->sinks ? begins : a->sinks;
    p.seen = p.seen_sinks + (end > p.first ? end - p.first : 0);
    p.query_parts = (p.queries + TASK_QUERIES - 1) / TASK_QUERIES;
    p.spans = a->tokens > 1 ? 1 : p.seen / SPAN_ROWS < 1 ? 1 : p.seen / SPAN_ROWS;
    if (p.spans > MOST_SPANS) p.spans = MOST_SPANS;
    if (!a->scratch) return p;  // how much it should be is what is asked
    p.window = a->scratch;
    p.sink = p.window + a->kv_heads * p.queries * a->head_dim;
    p.partial = p.sink + a->kv_heads * p.queries * a->head_dim;
    return p;
}

static size_t together_scratch_bytes(const Attention *a) {
    const Plan p = plan(a);
    return (size_t)(a->kv_heads * p.queries * (2 * a->head_dim + p.spans * (a->head_dim + 2))) * sizeof(float);
}

static int64_t ring_row(const Attention *a, int64_t token) {
    return token < a->sinks ? token : a->sinks + (token - a->sinks) % (a->rows - a->sinks);
}

// Rotary embedding, halves paired.
static void rotate(const float *x, const float *cosine, const float *sine, int64_t half_dim, float scale, float *out) {
    for (int64_t i = 0; i < half_dim; i++) {
        float c = cosine[i] * scale, s = sine[i] * scale, low = x[i], high = x[i + half_dim];
        out[i] = low * c - high * s;
        out[i + half_dim] = high * c + low * s;
    }
}

// A head through its norm: in `memory` [D], or where there is no norm x itself.
static const float *normed(const Attention *a, const float *x, const float *norm, float *memory) {
    if (!norm) return x;
    rms_norm(x, norm, a->head_dim, a->epsilon, memory);
    return memory;
}

static void together_write(const Attention *a, int64_t t) {
    const Plan p = plan(a);
    const int64_t dim = a->head_dim, pairs = dim / 2, width = (a->heads + 2 * a->kv_heads) * dim;
    const float *cosine = a->cosine + t * pairs, *sine = a->sine + t * pairs;
    const float *sink_cosine = a->sink_cosine + t * pairs, *sink_sine = a->sink_sine + t * pairs;
    const float *q = a->qkv + t * width, *k = q + a->heads * dim, *v = k + a->kv_heads * dim;
    float memory[dim];
    for (int64_t head = 0; head < a->heads; head++) {
        const float *query = normed(a, q + head * dim, a->q_norm, memory);
        int64_t at = head / p.groups * p.queries + t * p.groups + head % p.groups;
        rotate(query, cosine, sine, pairs, a->scale, p.window + at * dim);
        rotate(query, sink_cosine, sink_sine, pairs, a->scale, p.sink + at * dim);
    }
    const int64_t row = ring_row(a, a->position + t);
    for (int64_t head = 0; head < a->kv_heads; head++) {
        const int64_t at = (head * a->rows + row) * dim;
        float key[dim];
        rotate(normed(a, k + head * dim, a->k_norm, memory), cosine, sine, pairs, 1, key);
        if (a->wide_keys) memcpy((float *)a->keys + at, key, sizeof key);
        for (int64_t d = 0; d < dim; d += LANES) {
            if (!a->wide_keys) half_store((half *)a->keys + at + d, f_load(key + d));
            half_store(a->values + at + d, f_load(v + head * dim + d));
        }
    }
}

// ---- one tile: up to TILE_ROWS rows that lie one behind the other

// Rows of keys in the buffers, [rows, D]; whether they are floats is a constant where they are read.
INLINE F key_load(const void *keys, const int is_wide, int64_t at) {
    return is_wide ? f_load((const float *)keys + at) : f_of_half((const half *)keys + at);
}

// scores[i][r] = query i . key r, for few queries: along the rows as they lie, three queries held at a time.
INLINE void few_scores_of(const int is_wide, const float *queries, int64_t count, const void *keys, const half *values,
                          int64_t rows, int64_t dim, float (*scores)[TILE_ROWS]) {
    for (int64_t i = 0; i < count; i += FEW)
        for (int64_t d = 0; d < dim; d += WIDE * LANES) {
            const int64_t n = count - i < FEW ? count - i : FEW;
            const int whole = d + WIDE * LANES <= dim;
            F q[FEW][WIDE];
            UNROLL for (int j = 0; j < FEW; j++) {
                const float *query = queries + (i + (j < n ? j : 0)) * dim + d;
                UNROLL for (int v = 0; v < WIDE; v++)
                    q[j][v] = d + v * LANES < dim ? f_load(query + v * LANES) : f_set(0);
            }
            for (int64_t r = 0; r < rows; r += 4) {
                F acc[FEW][4];
                float sums[FEW][4];
                UNROLL for (int row = 0; row < 4; row++) {
                    const int64_t at = (r + row < rows ? r + row : rows - 1) * dim + d;
                    UNROLL for (int j = 0; j < FEW; j++) acc[j][row] = f_set(0);
                    if (whole) {
                        UNROLL for (int v = 0; v < WIDE; v++) {
                            const F key = key_load(keys, is_wide, at + v * LANES);
                            UNROLL for (int j = 0; j < FEW; j++) acc[j][row] = f_fma(key, q[j][v], acc[j][row]);
                        }
                    } else {
                        for (int v = 0; v < (dim - d) / LANES; v++) {
                            const F key = key_load(keys, is_wide, at + v * LANES);
                            for (int j = 0; j < FEW; j++) acc[j][row] = f_fma(key, q[j][v], acc[j][row]);
                        }
                    }
                    __builtin_prefetch(values + at);  // they are wanted next
                    __builtin_prefetch(values + at + WIDE * LANES / 2);
                }
                for (int j = 0; j < FEW; j++) f_sum4(acc[j][0], acc[j][1], acc[j][2], acc[j][3], sums[j]);
                for (int64_t j = 0; j < n; j++)
                    for (int row = 0; row < 4; row++) {
                        float *score = scores[i + j] + r + row;
                        *score = sums[j][row] + (d ? *score : 0);
                    }
            }
        }
}

static void few_scores(int is_wide, const float *queries, int64_t count, const void *keys, const half *values,
                       int64_t rows, int64_t dim, float (*scores)[TILE_ROWS]) {
    if (is_wide) {
        few_scores_of(1, queries, count, keys, values, rows, dim, scores);
    } else {
        few_scores_of(0, queries, count, keys, values, rows, dim, scores);
    }
}

// Which operands of a chunk's products are pairs of bfloat16: queries and keys, weights and values. Constants where tiles
// are read, for which functions are made for each.
typedef struct {
    int scores, values;
} Pairs;

static Pairs pairs_of(const Attention *a) {
    const int can = HAS_PAIRS && a->coarse && a->head_dim % (2 * LANES) == 0;
    return (Pairs){can && !a->wide_keys, can};
}

INLINE F add_products(const int pairs, F a, F b, F sum) { return pairs ? p_dot(a, b, sum) : f_fma(a, b, sum); }

// Values that lie one behind the other to pairs, half as many; `out` may be x.
static void make_pairs(const float *x, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += 2 * LANES) f_store(out + i / 2, p_row(f_load(x + i), f_load(x + i + LANES)));
}

// Rows of keys to [D, TILE_ROWS], in pairs [D / 2, TILE_ROWS]. What is there beyond the rows, the last one again or
// whatever the memory held, is scored and then not seen.
INLINE void make_key_tile_of(const int is_wide, const int pairs, const void *keys, int64_t rows, int64_t dim,
                             float *tile) {
    const int64_t step = pairs ? 2 * LANES : LANES;
    for (int64_t first = 0; first < rows; first += LANES)
        for (int64_t d = 0; d < dim; d += step) {
            F square[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                const int64_t at = (first + i < rows ? first + i : rows - 1) * dim + d;
                square[i] = key_load(keys, is_wide, at);
                if (pairs) square[i] = p_row(square[i], key_load(keys, is_wide, at + LANES));
            }
            f_transpose(square);
            UNROLL for (int i = 0; i < LANES; i++) f_store(tile + (d / step * LANES + i) * TILE_ROWS + first, square[i]);
        }
}

static void make_key_tile(int is_wide, int pairs, const void *keys, int64_t rows, int64_t dim, float *tile) {
    if (is_wide) {
        make_key_tile_of(1, 0, keys, rows, dim, tile);
    } else if (HAS_PAIRS && pairs) {
        make_key_tile_of(0, 1, keys, rows, dim, tile);
    } else {
        make_key_tile_of(0, 0, keys, rows, dim, tile);
    }
}

// Rows of values to [rows, D], in pairs [rows / 2, D], where an odd last one is paired with zeros.
static void make_value_tile(int pairs, const half *values, int64_t rows, int64_t dim, float *tile) {
    if (!pairs) {
        for (int64_t i = 0; i < rows * dim; i += LANES) f_store(tile + i, f_of_half(values + i));
        return;
    }
    for (int64_t r = 0; r < rows; r += 2)
        for (int64_t d = 0; d < dim; d += LANES) {
            const half *even = values + r * dim + d;
            f_store(tile + r / 2 * dim + d, p_rows(f_of_half(even), r + 1 < rows ? f_of_half(even + dim) : f_set(0)));
        }
}

// scores[i][r] = query i . key r, for many queries [count, depth] against keys [depth, TILE_ROWS].
INLINE void many_scores_of(const int pairs, const float *queries, int64_t count, const float *keys, int64_t depth,
                           float (*scores)[TILE_ROWS]) {
    for (int64_t i = 0; i < count; i += DEEP)
        for (int64_t r = 0; r < TILE_ROWS; r += WIDE * LANES) {
            F acc[DEEP][WIDE];
            const float *q[DEEP];
            const int64_t n = count - i < DEEP ? count - i : DEEP;
            UNROLL for (int j = 0; j < DEEP; j++) {
                q[j] = queries + (i + (j < n ? j : 0)) * depth;
                UNROLL for (int v = 0; v < WIDE; v++) acc[j][v] = f_set(0);
            }
            for (int64_t d = 0; d < depth; d++) {
                F key[WIDE];
                UNROLL for (int v = 0; v < WIDE; v++) key[v] = f_load(keys + d * TILE_ROWS + r + v * LANES);
                UNROLL for (int j = 0; j < DEEP; j++)
                    UNROLL for (int v = 0; v < WIDE; v++)
                        acc[j][v] = add_products(pairs, f_set(q[j][d]), key[v], acc[j][v]);
            }
            for (int64_t j = 0; j < n; j++)
                UNROLL for (int v = 0; v < WIDE; v++) f_store(scores[i + j] + r + v * LANES, acc[j][v]);
        }
}

static void many_scores(int pairs, const float *queries, int64_t count, const float *keys, int64_t dim,
                        float (*scores)[TILE_ROWS]) {
    if (HAS_PAIRS && pairs) {
        many_scores_of(1, queries, count, keys, dim / 2, scores);
    } else {
        many_scores_of(0, queries, count, keys, dim, scores);
    }
}

// sums[i] += weights[i] . values, for few queries.
static void few_values(float (*weights)[TILE_ROWS], int64_t count, const half *values, int64_t rows, int64_t dim,
                       float *sums, int64_t stride) {
    for (int64_t i = 0; i < count; i += FEW) {
        const int64_t n = count - i < FEW ? count - i : FEW;
        for (int64_t d = 0; d < dim; d += WIDE * LANES) {
            const int wide = (int)(dim - d < WIDE * LANES ? (dim - d) / LANES : WIDE);
            F acc[FEW][WIDE];
            UNROLL for (int j = 0; j < FEW; j++)
                UNROLL for (int v = 0; v < WIDE; v++)
                    acc[j][v] = j < n && v < wide ? f_load(sums + (i + j) * stride + d + v * LANES) : f_set(0);
            if (wide == WIDE && n == FEW) {
                for (int64_t r = 0; r < rows; r++)
                    UNROLL for (int v = 0; v < WIDE; v++) {
                        F value = f_of_half(values + r * dim + d + v * LANES);
                        UNROLL for (int j = 0; j < FEW; j++)
                            acc[j][v] = f_fma(f_set(weights[i + j][r]), value, acc[j][v]);
                    }
            } else {
                for (int64_t r = 0; r < rows; r++)
                    for (int v = 0; v < wide; v++) {
                        F value = f_of_half(values + r * dim + d + v * LANES);
                        for (int64_t j = 0; j < n; j++) acc[j][v] = f_fma(f_set(weights[i + j][r]), value, acc[j][v]);
                    }
            }
            for (int64_t j = 0; j < n; j++)
                for (int v = 0; v < wide; v++) f_store(sums + (i + j) * stride + d + v * LANES, acc[j][v]);
        }
    }
}

// The same for many, with values [depth, D].
INLINE void many_values_of(const int pairs, float (*weights)[TILE_ROWS], int64_t count, const float *values,
                           int64_t depth, int64_t dim, float *sums, int64_t stride) {
    for (int64_t i = 0; i < count; i += DEEP) {
        const int64_t n = count - i < DEEP ? count - i : DEEP;
        for (int64_t d = 0; d < dim; d += WIDE * LANES) {
            const int wide = (int)(dim - d < WIDE * LANES ? (dim - d) / LANES : WIDE);
            F acc[DEEP][WIDE];
            const float *w[DEEP];
            UNROLL for (int j = 0; j < DEEP; j++) {
                w[j] = weights[i + (j < n ? j : 0)];
                UNROLL for (int v = 0; v < WIDE; v++)
                    acc[j][v] = j < n && v < wide ? f_load(sums + (i + j) * stride + d + v * LANES) : f_set(0);
            }
            if (wide == WIDE) {
                for (int64_t r = 0; r < depth; r++) {
                    F value[WIDE];
                    UNROLL for (int v = 0; v < WIDE; v++) value[v] = f_load(values + r * dim + d + v * LANES);
                    UNROLL for (int j = 0; j < DEEP; j++)
                        UNROLL for (int v = 0; v < WIDE; v++)
                            acc[j][v] = add_products(pairs, f_set(w[j][r]), value[v], acc[j][v]);
                }
            } else {
                for (int64_t r = 0; r < depth; r++)
                    for (int v = 0; v < wide; v++) {
                        F value = f_load(values + r * dim + d + v * LANES);
                        UNROLL for (int j = 0; j < DEEP; j++)
                            acc[j][v] = add_products(pairs, f_set(w[j][r]), value, acc[j][v]);
                    }
            }
            for (int64_t j = 0; j < n; j++)
                for (int v = 0; v < wide; v++) f_store(sums + (i + j) * stride + d + v * LANES, acc[j][v]);
        }
    }
}

static void many_values(int pairs, float (*weights)[TILE_ROWS], int64_t count, const float *values, int64_t rows,
                        int64_t dim, float *sums, int64_t stride) {
    if (HAS_PAIRS && pairs) {
        many_values_of(1, weights, count, values, (rows + 1) / 2, dim, sums, stride);
    } else {
        many_values_of(0, weights, count, values, rows, dim, sums, stride);
    }
}

// Scores [TILE_ROWS] of one query to weights; rows outside from <= r < to are not seen. `partial` as in Plan.
static void soften(float *scores, int64_t from, int64_t to, float *partial, int64_t dim) {
    if (from >= to) {
        memset(scores, 0, TILE_ROWS * sizeof *scores);
        return;
    }
    for (int64_t r = 0; r < from; r++) scores[r] = -INFINITY;
    for (int64_t r = to; r < TILE_ROWS; r++) scores[r] = -INFINITY;
    F most = f_set(-INFINITY);
    for (int r = 0; r < TILE_ROWS; r += LANES) most = f_max(most, f_load(scores + r));
    const float before = partial[dim], largest = f_largest(most);
    const float now = largest > before ? largest : before;
    F total = f_set(0);
    for (int r = 0; r < TILE_ROWS; r += LANES) {
        F weight = f_exp(f_sub(f_load(scores + r), f_set(now)));  // of what is not seen 1e-38
        f_store(scores + r, weight);
        total = f_add(total, weight);
    }
    float kept = 1;
    if (now > before) {
        kept = before == -INFINITY ? 0 : expf(before - now);
        for (int64_t d = 0; d < dim; d += LANES) f_store(partial + d, f_mul(f_load(partial + d), f_set(kept)));
    }
    partial[dim] = now;
    partial[dim + 1] = partial[dim + 1] * kept + f_sum(total);
}

// ---- tasks

static int64_t together_tasks(const Attention *a) {
    const Plan p = plan(a);
    return a->kv_heads * p.query_parts * p.spans;
}

static int together_task(const Attention *a, int64_t task) {
    const Plan p = plan(a);
    const int64_t dim = a->head_dim, stride = p.spans * (dim + 2);
    const int64_t span = task % p.spans, part = task / p.spans % p.query_parts, head = task / p.spans / p.query_parts;
    const int64_t start = part * TASK_QUERIES;
    const int64_t count = p.queries - start < TASK_QUERIES ? p.queries - start : TASK_QUERIES;
    const int is_wide = a->wide_keys;
    const Pairs pairs = pairs_of(a);
    float *partial = p.partial + ((head * p.queries + start) * p.spans + span) * (dim + 2);
    const size_t score_bytes = (size_t)count * TILE_ROWS * sizeof(float);
    const size_t tile_bytes = (size_t)(dim * TILE_ROWS) * sizeof(float);
    const size_t query_bytes = pairs.scores ? (size_t)(count * dim / 2) * sizeof(float) : 0;
    char *memory = thread_scratch(OF_TASK, score_bytes + 2 * tile_bytes + query_bytes);
    if (!memory) return 0;
    float(*scores)[TILE_ROWS] = (void *)memory;
    float *key_tile = (float *)(memory + score_bytes), *value_tile = (float *)(memory + score_bytes + tile_bytes);
    float *paired = (float *)(memory + score_bytes + 2 * tile_bytes);
    const float *paired_of = NULL;
    for (int64_t i = 0; i < count; i++) {
        memset(partial + i * stride, 0, (size_t)dim * sizeof(float));
        partial[i * stride + dim] = -INFINITY, partial[i * stride + dim + 1] = 0;
    }
    int64_t at = p.seen * span / p.spans;
    const int64_t end = p.seen * (span + 1) / p.spans;
    while (at < end) {  // `at` counts the rows visited, oldest token first
        const int is_sink = at < p.seen_sinks;
        const int64_t token = is_sink ? at : p.first + at - p.seen_sinks, row = ring_row(a, token);
        int64_t rows = (is_sink && p.seen_sinks < end ? p.seen_sinks : end) - at;
        if (!is_sink && row + rows > a->rows) rows = a->rows - row;
        if (rows > TILE_ROWS) rows = TILE_ROWS;
        const float *queries = (is_sink ? p.sink : p.window) + (head * p.queries + start) * dim;
        const int64_t first = (head * a->rows + row) * dim;  // number of a row, of either buffer
        const half *values = a->values + first;
        const void *keys = is_wide ? (const void *)((const float *)a->keys + first) : (const half *)a->keys + first;
        if (count <= MOST_FEW) {
            few_scores(is_wide, queries, count, keys, values, rows, dim, scores);
        } else {
            if (pairs.scores && queries != paired_of) make_pairs(paired_of = queries, count * dim, paired);
            make_key_tile(is_wide, pairs.scores, keys, rows, dim, key_tile);
            make_value_tile(pairs.values, values, rows, dim, value_tile);
            many_scores(pairs.scores, pairs.scores ? paired : queries, count, key_tile, dim, scores);
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t t = (start + i) / p.groups;  // a token sees up to itself
            int64_t to = a->position + t + 1 - token, from = is_sink ? 0 : window_begins(a, t) - token;
            soften(scores[i], from < 0 ? 0 : from, to < 0 ? 0 : to < rows ? to : rows, partial + i * stride, dim);
        }
        if (count <= MOST_FEW) {
            few_values(scores, count, values, rows, dim, partial, stride);
        } else {
            for (int64_t i = 0; pairs.values && i < count; i++) make_pairs(scores[i], TILE_ROWS, scores[i]);
            many_values(pairs.values, scores, count, value_tile, rows, dim, partial, stride);
        }
        at += rows;
    }
    return 1;
}

static void together_merge(const Attention *a) {
    const Plan p = plan(a);
    const int64_t dim = a->head_dim;
    for (int64_t head = 0; head < a->heads; head++)
        for (int64_t t = 0; t < a->tokens; t++) {
            const int64_t at = head / p.groups * p.queries + t * p.groups + head % p.groups;
            const float *partial = p.partial + at * p.spans * (dim + 2);
            float *context = a->context + (t * a->heads + head) * dim, most = -INFINITY, total = 0;
            for (int64_t s = 0; s < p.spans; s++) most = fmaxf(most, partial[s * (dim + 2) + dim]);
            memset(context, 0, (size_t)dim * sizeof *context);
            for (int64_t s = 0; s < p.spans; s++) {
                const float *of = partial + s * (dim + 2);
                const float weight = expf(of[dim] - most);
                total += weight * of[dim + 1];
                for (int64_t d = 0; d < dim; d++) context[d] += weight * of[d];
            }
            for (int64_t d = 0; d < dim; d++) context[d] /= total;
        }
}

// ---- tokens together, or each as if it were alone

static int is_apart(const Attention *a) {
    return a->tokens > 1 && a->tokens <= (a->coarse && a->is_read ? MOST_APART_READ : MOST_APART);
}

// One token that sees as much as any of a call: it stands where the last does, and its window begins where the first's does.
static Attention largest_of(const Attention *a) {
    Attention one = *a;
    one.tokens = 1, one.position += a->tokens - 1, one.scratch = NULL;
    return one;
}

// One token of a call, in scratch memory of its own.
static Attention one_of(const Attention *a, int64_t t) {
    const int64_t pairs = a->head_dim / 2, phases = t * pairs;
    Attention one = *a;
    one.tokens = 1, one.position += t, one.scratch = NULL;
    one.qkv += t * (a->heads + 2 * a->kv_heads) * a->head_dim;
    one.cosine += phases, one.sine += phases, one.sink_cosine += phases, one.sink_sine += phases;
    one.context += t * a->heads * a->head_dim;
    if (a->oldest) one.oldest += t * a->oldest_step;
    if (!a->scratch) return one;
    const Attention largest = largest_of(a);
    one.scratch = (char *)a->scratch + (size_t)t * together_scratch_bytes(&largest);
    return one;
}

static size_t attention_scratch_bytes(const Attention *a) {
    if (!is_apart(a)) return together_scratch_bytes(a);
    const Attention largest = largest_of(a);
    return (size_t)a->tokens * together_scratch_bytes(&largest);
}

static void attention_write(const Attention *a, int64_t t) {
    if (!is_apart(a)) {
        together_write(a, t);
        return;
    }
    const Attention one = one_of(a, t);
    together_write(&one, 0);
}

static int64_t attention_tasks(const Attention *a) {
    if (!is_apart(a)) return together_tasks(a);
    const Attention largest = largest_of(a);
    return a->tokens * together_tasks(&largest);
}

static int attention_task(const Attention *a, int64_t task) {
    if (!is_apart(a)) return together_task(a, task);
    const int64_t each = attention_tasks(a) / a->tokens;
    const Attention one = one_of(a, task / each);
    return task % each < together_tasks(&one) ? together_task(&one, task % each) : 1;  // others have fewer
}

static void attention_merge(const Attention *a) {
    if (!is_apart(a)) {
        together_merge(a);
        return;
    }
    for (int64_t t = 0; t < a->tokens; t++) {
        const Attention one = one_of(a, t);
        together_merge(&one);
    }
}
