// Products with weights, in the words of simd.h. Sixteen rows of the weights lie side by side, and a lane is a row:
// what is read lies in one piece, nothing is summed across lanes, and no row is too short.
#pragma once

#include "floats.h"
#include "kernels.h"
#include "matrix.h"
#include "norm.h"
#include "simd.h"

#define SMALLEST 1e-35f  // of a block's values: its inverse is still a float

// Activations rounded to 15 bits: x[k] = scale[k / 32] * (128 high[k] + low[k]), both of 8 bits.
typedef struct {
    int64_t blocks, columns;
    int8_t *codes;        // [T, 2, K], high and low
    float *scale;         // [T, blocks]
    float *sum;           // [T, blocks, parts] of the values that share a scale of the weights, times what offsets ask for
} Rounded;

static Rounded rounded(const Product *p) {
    Rounded r = {.blocks = p->weight.columns / BLOCK, .columns = p->weight.columns, .codes = p->scratch};
    r.scale = (float *)(r.codes + p->tokens * 2 * r.columns);
    r.sum = r.scale + p->tokens * r.blocks;
    return r;
}

static size_t product_scratch_bytes(const Product *p) {
    const size_t blocks = (size_t)(p->tokens * p->weight.columns / BLOCK);
    if (p->weight.bits == FLOAT_BITS) return blocks * BLOCK * sizeof(float);
    return blocks * (2 * BLOCK + (1 + MOST_PARTS) * sizeof(float));
}

// One block of 32 values to codes, high and low; their scale, and the sums of scale * code of its two halves.
static float round_block(const float *values, int8_t *high_codes, int8_t *low_codes, float sums[2]) {
    F most = f_set(0);
    for (int k = 0; k < BLOCK; k += LANES) most = f_max(most, f_abs(f_load(values + k)));
    const float largest = f_largest(most), scale = largest / (127 * 128);
    const F inverse = f_set(largest > SMALLEST ? 127 / largest : 0), fine = f_set(128);
    for (int first = 0; first < BLOCK; first += BLOCK / 2) {
        F sum = f_set(0);
        for (int k = first; k < first + BLOCK / 2; k += LANES) {
            const F x = f_mul(f_load(values + k), inverse), high = f_round(x);
            const F low = f_round(f_mul(f_sub(x, high), fine));
            i_store_bytes(high_codes + k, high);
            i_store_bytes(low_codes + k, low);
            sum = f_add(sum, f_fma(high, fine, low));
        }
        sums[first != 0] = scale * f_sum(sum);
    }
    return scale;
}

// A token's activations behind their norm, if there is one, as the weights want them: rounded, or as they are.
static void product_round(const Product *p, int64_t token) {
    const Rounded r = rounded(p);
    const Kind kind = kind_of(&p->weight);
    const float *x = p->x + token * r.columns;
    const float rms = p->norm ? inverse_rms(x, r.columns, p->epsilon) : 1;
    // an offset is added as it is; else a code counts from the middle, and some sets have taken a part of that already
    const float times = kind.offset ? 1 : (float)((unpacked_bits(kind) == 8 ? CODE_BIAS : 0) - middle_of(kind));
    int8_t *high = r.codes + token * 2 * r.columns;
    float *kept = kind.bits == FLOAT_BITS ? (float *)p->scratch + token * r.columns : NULL;
    for (int64_t b = 0; b < r.blocks; b++) {
        float block[BLOCK], *values = kept ? kept + b * BLOCK : block;
        for (int k = 0; k < BLOCK; k += LANES) {
            F v = f_load(x + b * BLOCK + k);
            if (p->norm) v = f_mul(f_mul(v, f_set(rms)), f_load(p->norm + b * BLOCK + k));
            f_store(values + k, v);
        }
        if (kept) continue;
        float sums[2], *sum = r.sum + (token * r.blocks + b) * parts_of(kind);
        r.scale[token * r.blocks + b] = round_block(values, high + b * BLOCK, high + r.columns + b * BLOCK, sums);
        if (parts_of(kind) == 1) {
            sum[0] = (sums[0] + sums[1]) * times;
        } else {
            sum[0] = sums[0] * times, sum[1] = sums[1] * times;
        }
    }
}

// found[t][lane ...] of `count` tokens from `first` on with LANES of the rows of a group.
INLINE void lanes_product(const Matrix *w, const Kind kind, int64_t group, int lane, const Rounded *r, int64_t first,
                          const int count, float (*found)[GROUP]) {
    const int parts = parts_of(kind), bits = unpacked_bits(kind);
    F acc[TILE], rest[TILE];  // of offsets apart
    UNROLL for (int t = 0; t < count; t++) acc[t] = rest[t] = f_set(0);
    for (int64_t b = 0; b < r->blocks; b++) {
        const int64_t block = group * r->blocks + b;
        I words[8];
        F scale[MOST_PARTS], offset;
        unpack(codes_at(w, kind, block, lane), kind, count == 1 && !lane ? AHEAD : 0, words);
        UNROLL for (int part = 0; part < parts; part++) scale[part] = scale_at(w, kind, block, part, lane);
        if (kind.offset) offset = offset_at(w, kind, block, lane);
        UNROLL for (int t = 0; t < count; t++) {
            const int8_t *x = r->codes + (first + t) * 2 * r->columns + b * BLOCK;
            const int64_t at = (first + t) * r->blocks + b;
            UNROLL for (int part = 0; part < parts; part++) {
                const int from = part * BLOCK / 2;
                I high = i_dots(words + from / 4, x + from, bits);
                I low = i_dots(words + from / 4, x + r->columns + from, bits);
                if (parts == 1) {
                    high = i_add(high, i_dots(words + 4, x + BLOCK / 2, bits));
                    low = i_add(low, i_dots(words + 4, x + r->columns + BLOCK / 2, bits));
                }
                const F sum = f_of_int(i_add(i_times_128(high), low));
                acc[t] = f_fma(sum, f_mul(scale[part], f_set(r->scale[at])), acc[t]);
                rest[t] = f_fma(kind.offset ? offset : scale[part], f_set(r->sum[at * parts + part]), rest[t]);
            }
        }
    }
    UNROLL for (int t = 0; t < count; t++) f_store(found[t] + lane, f_add(acc[t], rest[t]));
}

INLINE void group_tokens(const Product *p, const Kind kind, const Rounded *r, int64_t group, float (*found)[GROUP]) {
    for (int lane = 0; lane < GROUP; lane += LANES) {
        int64_t t = 0;
        for (; t + TILE <= p->tokens; t += TILE)
            lanes_product(&p->weight, kind, group, lane, r, t, TILE, found + t);
        for (; t < p->tokens; t++) lanes_product(&p->weight, kind, group, lane, r, t, 1, found + t);
    }
}

// found[t] of every token with the 16 rows of a group: code of its own for every kind that calls.c lets through.
static void group_products(const Product *p, int64_t group, float (*found)[GROUP]) {
    const Rounded r = rounded(p);
    const Kind kind = kind_of(&p->weight);
#define IF_IT_IS(...) \
    if (is_same(kind, (Kind){__VA_ARGS__})) group_tokens(p, (Kind){__VA_ARGS__}, &r, group, found);
    IF_IT_IS(.bits = 4)
    IF_IT_IS(.bits = 4, .offset = 1)
    IF_IT_IS(.bits = 4, .offset = 1, .factored = 1)
    IF_IT_IS(.bits = 4, .table = 1)
    IF_IT_IS(.bits = 4, .table = 1, .factored = 1)
    IF_IT_IS(.bits = 5)
    IF_IT_IS(.bits = 5, .offset = 1)
    IF_IT_IS(.bits = 5, .offset = 1, .factored = 1)
    IF_IT_IS(.bits = 6, .factored = 1)
    IF_IT_IS(.bits = 8)
#undef IF_IT_IS
    if (kind.bits == FLOAT_BITS && kind.table) group_float_products(&p->weight, 1, group, p->scratch, p->tokens, found);
    else if (kind.bits == FLOAT_BITS) group_float_products(&p->weight, 0, group, p->scratch, p->tokens, found);
}

// z such that the gate of x is x sigmoid(z): x itself, or since (1 + tanh(u)) / 2 = sigmoid(2 u), twice GELU's
// sqrt(2 / pi) (x + 0.044715 x^3).
INLINE F gate_slope(F x, Gate gate) {
    return gate == SILU ? x : f_mul(x, f_fma(f_mul(x, x), f_set(0.07135481283f), f_set(1.595769122f)));
}

static void gate_times(float *gated, const float *up, Gate gate) {
    for (int i = 0; i < GROUP; i += LANES) {
        const F x = f_load(gated + i), zero = f_set(0), one = f_set(1);
        const F e = f_exp(f_sub(zero, f_abs(gate_slope(x, gate))));  // e^-|z|: never large
        const F right = f_div(one, f_add(one, e)), left = f_mul(e, right);  // sigmoid(|z|), sigmoid(-|z|)
        const F all = f_add(f_mul(f_max(x, zero), right), f_mul(f_min(x, zero), left));  // z has the sign of x
        f_store(gated + i, f_mul(all, f_load(up + i)));
    }
}

// Never part of a task's own code, where it would take registers from products that have nothing to add.
static __attribute__((noinline)) void add(float *sums, const float *more, int64_t count) {
    for (int64_t i = 0; i < count; i++) sums[i] += more[i];
}

static int64_t product_tasks(const Product *p) {
    return ((p->gated ? p->weight.rows / 2 : p->weight.rows) + GROUP - 1) / GROUP;
}

static int product_task(const Product *p, int64_t task) {
    const int64_t width = p->gated ? p->weight.rows / 2 : p->weight.rows, row = task * GROUP;
    const int64_t count = width - row < GROUP ? width - row : GROUP;
    float(*found)[GROUP] = thread_scratch(OF_TASK, 2 * sizeof *found * (size_t)p->tokens);
    if (!found) return 0;
    float(*up)[GROUP] = found + p->tokens;
    group_products(p, task, found);
    if (p->gated) group_products(p, width / GROUP + task, up);
    for (int64_t t = 0; t < p->tokens; t++) {
        float *out = p->out + t * width + row;
        if (p->gated) gate_times(found[t], up[t], p->gated);
        if (p->bias) add(found[t], p->bias + row, count);
        if (p->residual && !p->after) {
            for (int64_t i = 0; i < count; i++) out[i] = found[t][i] + p->residual[t * width + row + i];
        } else {
            memcpy(out, found[t], (size_t)count * sizeof(float));
        }
    }
    return 1;
}

static void product_finish(const Product *p, int64_t token) {
    const int64_t width = p->weight.rows;
    float *out = p->out + token * width;
    rms_norm(out, p->after, width, p->epsilon, out);
    if (p->residual) add(out, p->residual + token * width, width);
}
