// Weights in 16 bits, float16 or bfloat16, in the words of simd.h: products in float32, with activations as they are.
#pragma once

#include "kernels.h"
#include "simd.h"

enum { FLOAT_BITS = 16 };

// Two columns of LANES rows, each in its half of a word.
INLINE void two_columns(const uint8_t *words, const int is_bfloat, F *even, F *odd) {
    const I x = i_load(words);
    if (is_bfloat) {
        *even = (F)((Words)x << 16), *odd = (F)((Words)x & 0xffff0000u);
    } else {
        f_of_halves(x, even, odd);
    }
}

// Of the rows of a group from `lane` on, from column k on: even.
INLINE const uint8_t *floats_at(const Matrix *w, int64_t group, int64_t lane, int64_t k) {
    return w->codes + ((group * w->columns + k) / 2 * GROUP + lane) * 4;
}

// found[t][lane ...] of `count` tokens x [count, K] with LANES of the rows of a group.
INLINE void lanes_float_product(const Matrix *w, const int is_bfloat, int64_t group, int lane, const float *x,
                                const int count, const int64_t ahead, float (*found)[GROUP]) {
    F even_sum[TILE], odd_sum[TILE];
    UNROLL for (int t = 0; t < count; t++) even_sum[t] = odd_sum[t] = f_set(0);
    for (int64_t k = 0; k < w->columns; k += 2) {
        const uint8_t *words = floats_at(w, group, lane, k);
        F even, odd;
        if (ahead) __builtin_prefetch(words + ahead);
        two_columns(words, is_bfloat, &even, &odd);
        UNROLL for (int t = 0; t < count; t++) {
            even_sum[t] = f_fma(even, f_set(x[t * w->columns + k]), even_sum[t]);
            odd_sum[t] = f_fma(odd, f_set(x[t * w->columns + k + 1]), odd_sum[t]);
        }
    }
    UNROLL for (int t = 0; t < count; t++) f_store(found[t] + lane, f_add(even_sum[t], odd_sum[t]));
}

// found[t] of every token of x [T, K] with the 16 rows of a group.
INLINE void group_float_products(const Matrix *w, const int is_bfloat, int64_t group, const float *x, int64_t tokens,
                                 float (*found)[GROUP]) {
    for (int lane = 0; lane < GROUP; lane += LANES) {
        int64_t t = 0;
        for (; t + TILE <= tokens; t += TILE)
            lanes_float_product(w, is_bfloat, group, lane, x + t * w->columns, TILE, 0, found + t);
        for (; t < tokens; t++)
            lanes_float_product(w, is_bfloat, group, lane, x + t * w->columns, 1, lane ? 0 : AHEAD, found + t);
    }
}

// One row of the weights, in floats [K].
static void float_row(const Matrix *w, int64_t row, float *out) {
    const int64_t own = row % LANES, lane = row % GROUP - own;
    for (int64_t k = 0; k < w->columns; k += 2) {
        F pair[2];
        float columns[2][LANES];
        two_columns(floats_at(w, row / GROUP, lane, k), w->table, pair, pair + 1);
        f_store(columns[0], pair[0]), f_store(columns[1], pair[1]);
        out[k] = columns[0][own], out[k + 1] = columns[1][own];
    }
}
