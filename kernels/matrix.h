// Quantised weights as `Matrix` in kernels.h has them, a block of LANES rows at a time, in the words of simd.h.
#pragma once

#include "floats.h"
#include "kernels.h"
#include "simd.h"

enum { MOST_PARTS = 2 };  // of a block, with a scale each

// What tells matrices apart: known to the compiler wherever a function that is inlined goes through many blocks.
typedef struct {
    int bits, table, factored, offset;
} Kind;

INLINE Kind kind_of(const Matrix *w) { return (Kind){w->bits, w->table, w->factors != NULL, w->offset != NULL}; }

INLINE int is_same(Kind a, Kind b) {
    return a.bits == b.bits && a.table == b.table && a.factored == b.factored && a.offset == b.offset;
}

INLINE int parts_of(const Kind kind) { return kind.bits == 6 ? 2 : 1; }

// That a code takes of its byte when it is unpacked.
INLINE int unpacked_bits(const Kind kind) { return kind.table ? 8 : kind.bits; }

// The unpacked code that stands for 0.
INLINE int middle_of(const Kind kind) { return kind.offset ? 0 : 1 << (unpacked_bits(kind) - 1); }

// Of a block, counted through all groups.
INLINE const uint8_t *codes_at(const Matrix *w, const Kind kind, int64_t block, int64_t lane) {
    return w->codes + (block * kind.bits * GROUP + lane) * 4;
}

// A block's scale and offset, or what the factors of its SUPER columns are multiplied by.
typedef struct {
    F scale, offset;
} Halves;

INLINE Halves halves_at(const Matrix *w, const Kind kind, int64_t block, int64_t lane) {
    const int64_t place = (kind.factored ? block / (SUPER / BLOCK) : block) * GROUP + lane;
    return (Halves){f_of_half(w->scale + place), kind.offset ? f_of_half(w->offset + place) : f_set(0)};
}

INLINE F scale_at(const Matrix *w, const Kind kind, const Halves *of, int64_t block, int part, int64_t lane) {
    const int64_t place = block * parts_of(kind) + part;
    return kind.factored ? f_mul(of->scale, f_of_bytes(w->factors + place * GROUP + lane)) : of->scale;
}

INLINE F offset_at(const Matrix *w, const Kind kind, const Halves *of, int64_t block, int64_t lane) {
    return kind.factored ? f_mul(of->offset, f_of_bytes(w->offset_factors + block * GROUP + lane)) : of->offset;
}

// The values that IQ4's codes stand for, and 128.
static const uint8_t IQ4_VALUES[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

// The codes of one block of LANES rows, one a byte: 8 words of 4 columns for each row.
INLINE void unpack(const uint8_t *codes, const Kind kind, const int64_t ahead, I words[8]) {
    const int above = kind.bits - 4, vector = GROUP * 4;  // bits that do not lie with the lower four
    if (ahead) {
        UNROLL for (int i = 0; i < kind.bits; i++) __builtin_prefetch(codes + i * vector + ahead);
    }
    UNROLL for (int i = 0; i < 8; i++) {
        if (kind.bits == 8) {
            words[i] = i_load(codes + i * vector);
            continue;
        }
        words[i] = i_bits(i_load(codes + i % 4 * vector), i < 4 ? 0 : -4, 15);
        if (above) {
            const int at = i * above;
            const I more = i_load(codes + (4 + at / 8) * vector);
            words[i] = i_or(words[i], i_bits(more, 4 - at % 8, ((1u << above) - 1) << 4));
        }
        if (kind.table) words[i] = i_look_up(words[i], IQ4_VALUES);
    }
}

// One row of the weights, in floats [K], each product rounded and then the sum. Where there is a sum its products have at
// most 23 bits (11 of a half, 7 of a factor, 5 of a code): they are exact, and a compiler may contract the two.
static void matrix_row(const Matrix *w, int64_t row, float *out) {
    if (w->bits == FLOAT_BITS) {
        float_row(w, row, out);
        return;
    }
    const Kind kind = kind_of(w);
    const int64_t blocks = w->columns / BLOCK, own = row % LANES, lane = row % GROUP - own;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t block = row / GROUP * blocks + b;
        I words[8];
        uint8_t codes[8][LANES][4];
        float scale[MOST_PARTS][LANES], offset[LANES] = {0};
        unpack(codes_at(w, kind, block, lane), kind, 0, words);
        for (int i = 0; i < 8; i++) i_store(codes[i], words[i]);
        const Halves halves = halves_at(w, kind, block, lane);
        for (int part = 0; part < parts_of(kind); part++)
            f_store(scale[part], scale_at(w, kind, &halves, block, part, lane));
        if (kind.offset) f_store(offset, offset_at(w, kind, &halves, block, lane));
        for (int k = 0; k < BLOCK; k++) {
            const float value = (float)(codes[k / 4][own][k % 4] - middle_of(kind));
            const float product = scale[k * parts_of(kind) / BLOCK][own] * value;
            out[b * BLOCK + k] = kind.offset ? product + offset[own] : product;
        }
    }
}
