// Products with weights, in the words of simd.h. Sixteen rows of the weights lie side by side, and a lane is a row:
// what is read lies in one piece, nothing is summed across lanes, and no row is too short.
#pragma once

#include "floats.h"
#include "kernels.h"
#include "matrix.h"
#include "norm.h"
#include "simd.h"

#define LOUD 6.0f        // of the largest value of a block, in root mean squares of its row: beyond it a block is loud
#define SMALLEST 1e-35f  // of a block's values: its inverse is still a float

// Activations rounded to 15 bits: x[k] = scale[k / 32] * (128 high[k] + low[k]), both of 8 bits. They lie in the order in
// which a tile of tokens reads them. In a coarse pass a block that is not loud is rounded to 8 bits throughout a whole
// tile: then x[k] = scale[k / 32] * high[k], and there is no low.
typedef struct {
    int64_t blocks, tokens;
    int8_t *codes;        // tile by tile [blocks, 2, tokens of the tile, 32], high and low
    float *scale;         // tile by tile [blocks, tokens of the tile]
    void *sum;            // the same [..., parts], of the codes that share a scale of the weights: where these have offsets
                          // float, times the activations' scale; else int32, times what codes count from
    float *loudness;      // of a coarse pass, whole tile by whole tile [blocks]: see `is_loud`
} Rounded;

// Tokens that are worked on at once.
typedef struct {
    int64_t first, count;
} Tile;

INLINE Tile tile_of(int64_t tokens, int64_t token) {
    const int64_t first = token / TILE * TILE;
    return (Tile){first, tokens - first < TILE ? tokens - first : TILE};
}

// A pass in which blocks may be rounded to 8 bits: never one in which each token has the bits that it would have alone.
INLINE int is_coarse(const Product *p) {
    return p->coarse && p->tokens > MOST_APART && p->weight.bits != FLOAT_BITS;
}

// Whether a block keeps its 15 bits in a whole tile. Its loudness is the sum over the tokens of the square of its largest
// value, divided by the mean square of the token's row. What is not a number is loud.
INLINE int is_loud(float loudness) { return !(loudness <= LOUD * LOUD * TILE); }

static Rounded rounded(const Product *p) {
    Rounded r = {.blocks = p->weight.columns / BLOCK, .tokens = p->tokens, .codes = p->scratch};
    r.scale = (float *)(r.codes + p->tokens * 2 * p->weight.columns);
    r.sum = r.scale + p->tokens * r.blocks;
    r.loudness = (float *)r.sum + p->tokens * r.blocks * MOST_PARTS;
    return r;
}

static size_t product_scratch_bytes(const Product *p) {
    const size_t blocks = (size_t)(p->tokens * p->weight.columns / BLOCK);
    if (p->weight.bits == FLOAT_BITS) return blocks * BLOCK * sizeof(float);
    const size_t loudness = is_coarse(p) ? blocks / TILE : 0;
    return blocks * (2 * BLOCK + (1 + MOST_PARTS) * sizeof(float)) + loudness * sizeof(float);
}

INLINE float block_largest(const float *values) {
    F most = f_set(0);
    for (int k = 0; k < BLOCK; k += LANES) most = f_max(most, f_abs(f_load(values + k)));
    return f_largest(most);
}

// One block of 32 values to codes; their scale, and the sums of the codes of its two halves. `low` NULL: to 8 bits.
INLINE float round_block(const float *values, int8_t *high_codes, int8_t *low_codes, int32_t sums[2]) {
    const float largest = block_largest(values);
    const F inverse = f_set(largest > SMALLEST ? 127 / largest : 0), fine = f_set(128);
    for (int first = 0; first < BLOCK; first += BLOCK / 2) {
        F sum = f_set(0);
        for (int k = first; k < first + BLOCK / 2; k += LANES) {
            const F x = f_mul(f_load(values + k), inverse), high = f_round(x);
            i_store_bytes(high_codes + k, high);
            if (low_codes) {
                const F low = f_round(f_mul(f_sub(x, high), fine));
                i_store_bytes(low_codes + k, low);
                sum = f_add(sum, f_fma(high, fine, low));
            } else {
                sum = f_add(sum, high);
            }
        }
        sums[first != 0] = (int32_t)f_sum(sum);  // below 2^18: exact
    }
    return largest / (low_codes ? 127 * 128 : 127);
}

// Block b of a token's activations behind their norm, if there is one.
INLINE void normed_block(const Product *p, const float *x, float rms, int64_t b, float values[BLOCK]) {
    for (int k = 0; k < BLOCK; k += LANES) {
        F v = f_load(x + b * BLOCK + k);
        if (p->norm) v = f_mul(f_mul(v, f_set(rms)), f_load(p->norm + b * BLOCK + k));
        f_store(values + k, v);
    }
}

// A token's activations behind their norm, if there is one, as the weights want them: rounded, or as they are. To 15 bits,
// or where there is a loudness of blocks, those that are not loud to 8.
static void round_token(const Product *p, int64_t token, const float *loudness) {
    const Rounded r = rounded(p);
    const Kind kind = kind_of(&p->weight);
    const Tile tile = tile_of(p->tokens, token);
    const int64_t columns = p->weight.columns;
    const float *x = p->x + token * columns;
    const float rms = p->norm ? inverse_rms(x, columns, p->epsilon) : 1;
    // a code counts from the middle, and some sets have taken a part of that already
    const int32_t times = (unpacked_bits(kind) == 8 ? CODE_BIAS : 0) - middle_of(kind);
    float *kept = kind.bits == FLOAT_BITS ? (float *)p->scratch + token * columns : NULL;
    for (int64_t b = 0; b < r.blocks; b++) {
        float block[BLOCK], *values = kept ? kept + b * BLOCK : block;
        normed_block(p, x, rms, b, values);
        if (kept) continue;
        const int64_t block_at = tile.first * r.blocks + b * tile.count, at = block_at + token - tile.first;
        int8_t *high = r.codes + (2 * block_at + token - tile.first) * BLOCK;
        int8_t *low = !loudness || is_loud(loudness[b]) ? high + tile.count * BLOCK : NULL;
        int32_t sums[2];
        const float scale = round_block(values, high, low, sums);
        r.scale[at] = scale;
        if (kind.offset) {
            ((float *)r.sum)[at] = scale * (float)(sums[0] + sums[1]);
        } else if (parts_of(kind) == 1) {
            ((int32_t *)r.sum)[at] = times * (sums[0] + sums[1]);
        } else {
            for (int part = 0; part < 2; part++) ((int32_t *)r.sum)[at * 2 + part] = times * sums[part];
        }
    }
}

// What a token of a whole tile adds to the loudness of its blocks; `largest` [blocks] is room to work in.
static void add_loudness(const Product *p, int64_t token, float *largest, float *loudness) {
    const int64_t columns = p->weight.columns;
    const float *x = p->x + token * columns, rms = p->norm ? inverse_rms(x, columns, p->epsilon) : 1;
    F squares = f_set(0);
    for (int64_t b = 0; b < columns / BLOCK; b++) {
        float values[BLOCK];
        normed_block(p, x, rms, b, values);
        for (int k = 0; k < BLOCK; k += LANES) squares = f_fma(f_load(values + k), f_load(values + k), squares);
        largest[b] = block_largest(values);
    }
    const float total = f_sum(squares), inverse = total <= SMALLEST ? 0 : (float)columns / total;
    for (int64_t b = 0; b < columns / BLOCK; b++) loudness[b] += largest[b] * largest[b] * inverse;
}

static void round_tile(const Product *p, int64_t first) {
    const Rounded r = rounded(p);
    const Tile tile = tile_of(p->tokens, first);
    float *loudness = tile.count == TILE ? r.loudness + first / TILE * r.blocks : NULL;
    if (loudness) memset(loudness, 0, (size_t)r.blocks * sizeof *loudness);
    for (int64_t t = first; loudness && t < first + TILE; t++)
        add_loudness(p, t, r.scale + first * r.blocks, loudness);  // where there is no scale yet
    for (int64_t t = first; t < first + tile.count; t++) round_token(p, t, loudness);
}

static int64_t product_rounds(const Product *p) { return is_coarse(p) ? (p->tokens + TILE - 1) / TILE : p->tokens; }

static void product_round(const Product *p, int64_t task) {
    if (is_coarse(p)) {
        round_tile(p, task * TILE);
    } else {
        round_token(p, task, NULL);
    }
}

// Where a tile's activations lie, of the block that is worked on.
typedef struct {
    const int8_t *codes;
    const float *scale;
    const char *sum;
} Block;

// To acc[t] of each of `count` tokens, what a block's part adds to it, without offsets.
INLINE void add_part(const Kind kind, const I words[8], const int part, const F scale, const Block x, const int count,
                     const int has_low, F acc[TILE]) {
    const int parts = parts_of(kind), bits = unpacked_bits(kind), words_of = BLOCK / 4 / parts;
    const int together = count < TOGETHER ? count : TOGETHER;
    UNROLL for (int from = 0; from < count; from += together) {
        const int side = count - from < together ? count - from : together;
        I high[TOGETHER], low[TOGETHER];
        UNROLL for (int t = 0; t < side; t++) {
            high[t] = i_zero();
            low[t] = kind.offset ? i_zero() : i_repeat4(x.sum + ((from + t) * parts + part) * 4);
        }
        UNROLL for (int i = 0; i < words_of; i += DOT_WORDS) {
            UNROLL for (int t = 0; t < side; t++) {
                const int8_t *codes = x.codes + (from + t) * BLOCK + (part * words_of + i) * 4;
                if (has_low) {
                    high[t] = i_dots(high[t], words + part * words_of + i, codes, bits);
                    low[t] = i_dots(low[t], words + part * words_of + i, codes + count * BLOCK, bits);
                } else {
                    low[t] = i_dots(low[t], words + part * words_of + i, codes, bits);
                }
            }
        }
        UNROLL for (int t = 0; t < side; t++) {
            const F sum = f_of_int(has_low ? i_add(i_times_128(high[t]), low[t]) : low[t]);
            acc[from + t] = f_fma(sum, f_mul(scale, f_set(x.scale[from + t])), acc[from + t]);
        }
    }
}

// Of which blocks a sum is made: all of them in 15 bits, or those that are loud, and then the others in 8 bits. The two
// have loops of their own: in one the compiler runs out of registers.
typedef enum { ALL, LOUD_ONES, OTHERS_TOO } Blocks;

// found[t][lane ...] of the `count` tokens of a tile from `first` on with LANES of the rows of a group, whose weights are
// read once; OTHERS_TOO are added to what is there.
INLINE void lanes_product(const Matrix *w, const Kind kind, int64_t group, int lane, const Rounded *r, int64_t first,
                          const int count, const Blocks which, float (*found)[GROUP]) {
    const int parts = parts_of(kind);
    const int64_t ahead = first || lane ? 0 : count > 1 ? AHEAD / 2 : AHEAD;
    const float *loudness = r->loudness + first / TILE * r->blocks;  // of a whole tile
    Block x = {r->codes + first * r->blocks * 2 * BLOCK, r->scale + first * r->blocks,
               (const char *)r->sum + first * r->blocks * parts * (int64_t)sizeof(float)};
    Halves halves;
    F acc[TILE];
    UNROLL for (int t = 0; t < count; t++) acc[t] = which == OTHERS_TOO ? f_load(found[t] + lane) : f_set(0);
    for (int64_t b = 0; b < r->blocks; b++) {
        const int64_t block = group * r->blocks + b;
        if (!kind.factored || b % (SUPER / BLOCK) == 0) halves = halves_at(w, kind, block, lane);
        if (which == ALL || is_loud(loudness[b]) == (which == LOUD_ONES)) {
            I words[8];
            unpack(codes_at(w, kind, block, lane), kind, ahead, words);
            UNROLL for (int part = 0; part < parts; part++) {
                const F scale = scale_at(w, kind, &halves, block, part, lane);
                add_part(kind, words, part, scale, x, count, which != OTHERS_TOO, acc);
            }
            if (kind.offset) {
                const F offset = offset_at(w, kind, &halves, block, lane);
                const float *sum = (const float *)x.sum;
                UNROLL for (int t = 0; t < count; t++) acc[t] = f_fma(offset, f_set(sum[t]), acc[t]);
            }
        }
        x.codes += count * 2 * BLOCK, x.scale += count, x.sum += count * parts * (int64_t)sizeof(float);
    }
    UNROLL for (int t = 0; t < count; t++) f_store(found[t] + lane, acc[t]);
}

INLINE void group_tokens(const Product *p, const Kind kind, const Rounded *r, int64_t group, float (*found)[GROUP]) {
    for (int lane = 0; lane < GROUP; lane += LANES)
        for (int64_t first = 0, count; first < p->tokens; first += count) {
            count = tile_of(p->tokens, first).count;
            if (count == TILE && is_coarse(p)) {
                lanes_product(&p->weight, kind, group, lane, r, first, TILE, LOUD_ONES, found + first);
                lanes_product(&p->weight, kind, group, lane, r, first, TILE, OTHERS_TOO, found + first);
                continue;
            }
#define IF_THERE_ARE(n)         \
    if (count == n) lanes_product(&p->weight, kind, group, lane, r, first, n, ALL, found + first);
            IF_THERE_ARE(1)
            IF_THERE_ARE(2)
            IF_THERE_ARE(3)
            IF_THERE_ARE(4)
            IF_THERE_ARE(5)
            IF_THERE_ARE(6)
            IF_THERE_ARE(7)
            IF_THERE_ARE(8)
#undef IF_THERE_ARE
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
    group_products(p, p->in_turn ? 2 * task : task, found);
    if (p->gated) group_products(p, p->in_turn ? 2 * task + 1 : width / GROUP + task, up);
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
