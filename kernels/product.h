// Products with weights in 4 or 8 bits, in the words of simd.h. Sixteen rows of the weights lie side by side, and a
// lane is a row: what is read lies in one piece, nothing is summed across lanes, and no row is too short.
#pragma once

#include "kernels.h"
#include "norm.h"
#include "simd.h"

enum {
    AHEAD = 2048,                // bytes that one token's weights are asked for before they are wanted
    TILE = LANES == 16 ? 8 : 4,  // tokens that are worked on at once: as many as registers hold
};

#define SMALLEST 1e-35f  // of a block's values: its inverse is still a float

// Activations rounded to 15 bits: x[k] = scale[k / 32] * (128 high[k] + low[k]), both of 8 bits. Against weights in 4
// bits a block has its even columns first, as the low nibbles do.
typedef struct {
    int64_t blocks, columns;
    int8_t *codes;        // [T, 2, K], high and low
    float *scale, *sum;   // [T, blocks]; of a block's values, times what an offset is multiplied by
} Rounded;

static Rounded rounded(const Product *p) {
    Rounded r = {.blocks = p->weight.columns / BLOCK, .columns = p->weight.columns, .codes = p->scratch};
    r.scale = (float *)(r.codes + p->tokens * 2 * r.columns);
    r.sum = r.scale + p->tokens * r.blocks;
    return r;
}

static size_t product_scratch_bytes(const Product *p) {
    const size_t blocks = (size_t)(p->tokens * p->weight.columns / BLOCK);
    return 2 * blocks * (BLOCK + sizeof(float));
}

// One block of 32 values to codes in column order, high and low; their scale, and the sum of scale * code.
static float round_block(const float *values, int8_t codes[2][BLOCK], float *sum) {
    F most = f_set(0);
    for (int k = 0; k < BLOCK; k += LANES) most = f_max(most, f_abs(f_load(values + k)));
    const float largest = f_largest(most), scale = largest / 127;
    const F inverse = f_set(largest > SMALLEST ? 127 / largest : 0), fine = f_set(128);
    F high_sum = f_set(0), low_sum = f_set(0);
    for (int k = 0; k < BLOCK; k += LANES) {
        const F x = f_mul(f_load(values + k), inverse), high = f_round(x);
        i_store_bytes(codes[0] + k, high);
        high_sum = f_add(high_sum, high);
        const F low = f_round(f_mul(f_sub(x, high), fine));
        i_store_bytes(codes[1] + k, low);
        low_sum = f_add(low_sum, low);
    }
    *sum = scale * (f_sum(high_sum) + f_sum(low_sum) / 128);
    return scale / 128;
}

static void product_round(const Product *p, int64_t token) {
    const Rounded r = rounded(p);
    const int bits = p->weight.bits;
    const float *x = p->x + token * r.columns;
    const float rms = p->norm ? inverse_rms(x, r.columns, p->epsilon) : 1;
    // without an offset a code counts from the middle, which some instruction sets have taken off already
    const float middle = p->weight.offset ? 1 : (float)((bits == 8 ? CODE_BIAS : 0) - (1 << (bits - 1)));
    for (int64_t b = 0; b < r.blocks; b++) {
        float values[BLOCK], sum;
        int8_t codes[2][BLOCK];
        for (int k = 0; k < BLOCK; k += LANES) {
            F v = f_load(x + b * BLOCK + k);
            if (p->norm) v = f_mul(f_mul(v, f_set(rms)), f_load(p->norm + b * BLOCK + k));
            f_store(values + k, v);
        }
        r.scale[token * r.blocks + b] = round_block(values, codes, &sum);
        r.sum[token * r.blocks + b] = sum * middle;
        for (int part = 0; part < 2; part++) {
            int8_t *to = r.codes + (token * 2 + part) * r.columns + b * BLOCK;
            if (bits == 8) {
                memcpy(to, codes[part], BLOCK);
            } else {
                for (int k = 0; k < BLOCK; k++) to[k / 2 + k % 2 * (BLOCK / 2)] = codes[part][k];
            }
        }
    }
}

// The codes of one block of LANES rows, one a byte: 8 words of 4 columns for each row.
INLINE void unpack(const uint8_t *codes, const int bits, const int64_t ahead, I words[8]) {
    for (int i = 0; i < (bits == 4 ? 4 : 8); i++) {
        const I word = i_load(codes + i * GROUP * 4);
        if (ahead) __builtin_prefetch(codes + i * GROUP * 4 + ahead);
        if (bits == 8) {
            words[i] = word;
        } else {
            words[i] = i_low_nibbles(word), words[i + 4] = i_high_nibbles(word);
        }
    }
}

// found[t][first_lane ...] of `count` tokens from `first` on with LANES of the rows of a group.
INLINE void lanes_product(const Matrix *w, int64_t group, int first_lane, const Rounded *r, int64_t first,
                          const int count, float (*found)[GROUP], const int bits, const int has_offset) {
    const uint8_t *codes = w->codes + group * r->blocks * BLOCK * GROUP * bits / 8 + first_lane * 4;
    const half *scale = w->scale + group * r->blocks * GROUP + first_lane;
    const half *offset = has_offset ? w->offset + group * r->blocks * GROUP + first_lane : NULL;
    F acc[TILE], rest[TILE];  // of offsets apart
    UNROLL for (int t = 0; t < count; t++) acc[t] = rest[t] = f_set(0);
    for (int64_t b = 0; b < r->blocks; b++) {
        I words[8];
        unpack(codes + b * BLOCK * GROUP * bits / 8, bits, count == 1 && !first_lane ? AHEAD : 0, words);
        const F s = f_of_half(scale + b * GROUP), o = has_offset ? f_of_half(offset + b * GROUP) : s;
        UNROLL for (int t = 0; t < count; t++) {
            const int8_t *x = r->codes + (first + t) * 2 * r->columns + b * BLOCK;
            const int64_t at = (first + t) * r->blocks + b;
            const I high = i_dots(words, x, bits), low = i_dots(words, x + r->columns, bits);
            acc[t] = f_fma(f_of_int(i_add(i_times_128(high), low)), f_mul(s, f_set(r->scale[at])), acc[t]);
            rest[t] = f_fma(o, f_set(r->sum[at]), rest[t]);
        }
    }
    UNROLL for (int t = 0; t < count; t++) f_store(found[t] + first_lane, f_add(acc[t], rest[t]));
}

INLINE void group_tokens(const Product *p, const Rounded *r, int64_t group, float (*found)[GROUP], const int bits,
                         const int has_offset) {
    for (int lane = 0; lane < GROUP; lane += LANES) {
        int64_t t = 0;
        for (; t + TILE <= p->tokens; t += TILE)
            lanes_product(&p->weight, group, lane, r, t, TILE, found + t, bits, has_offset);
        for (; t < p->tokens; t++) lanes_product(&p->weight, group, lane, r, t, 1, found + t, bits, has_offset);
    }
}

// found[t] of every token with the 16 rows of a group.
static void group_products(const Product *p, const Rounded *r, int64_t group, float (*found)[GROUP]) {
    if (p->weight.bits == 4 && p->weight.offset) group_tokens(p, r, group, found, 4, 1);
    else if (p->weight.bits == 4) group_tokens(p, r, group, found, 4, 0);
    else group_tokens(p, r, group, found, 8, 0);  // 8 bits are symmetric
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
    const Rounded r = rounded(p);
    const int64_t width = p->gated ? p->weight.rows / 2 : p->weight.rows, row = task * GROUP;
    const int64_t count = width - row < GROUP ? width - row : GROUP;
    float(*found)[GROUP] = thread_scratch(OF_TASK, 2 * sizeof *found * (size_t)p->tokens);
    if (!found) return 0;
    float(*up)[GROUP] = found + p->tokens;
    group_products(p, &r, task, found);
    if (p->gated) group_products(p, &r, width / GROUP + task, up);
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

// One row of the weights, in floats [K].
static void matrix_row(const Matrix *w, int64_t row, float *out) {
    const int64_t blocks = w->columns / BLOCK, words = BLOCK * w->bits / 32, group = row / GROUP, lane = row % GROUP;
    for (int64_t b = 0; b < blocks; b++) {
        const half *scale = w->scale + (group * blocks + b) * GROUP;
        const half *offset = w->offset ? w->offset + (group * blocks + b) * GROUP : NULL;
        float s[GROUP], o[GROUP];
        for (int i = 0; i < GROUP; i += LANES) {
            f_store(s + i, f_of_half(scale + i));
            if (offset) f_store(o + i, f_of_half(offset + i));
        }
        const float least = offset ? o[lane] : -s[lane] * (float)(1 << (w->bits - 1));
        for (int64_t i = 0; i < words; i++)
            for (int64_t byte = 0; byte < 4; byte++) {
                const uint8_t code = w->codes[(((group * blocks + b) * words + i) * GROUP + lane) * 4 + byte];
                float *to = out + b * BLOCK + (i * 4 + byte) * (8 / w->bits);
                to[0] = s[lane] * (float)(w->bits == 4 ? code & 15 : code) + least;
                if (w->bits == 4) to[1] = s[lane] * (float)(code >> 4) + least;
            }
    }
}
