// The words that the kernels are written in, once for each instruction set: vectors of LANES floats, and of as many
// groups of four bytes. A file that includes this has chosen the set by defining one of SIMD_AVX512, SIMD_AVX2 and
// SIMD_NEON, and has told the compiler that it may use it.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(SIMD_AVX512)
#include <immintrin.h>
#define LANES 16
typedef __m512 F;
typedef __m512i I;

static inline F f_set(float x) { return _mm512_set1_ps(x); }
static inline F f_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void f_store(float *p, F x) { _mm512_storeu_ps(p, x); }
static inline F f_add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F f_sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F f_div(F a, F b) { return _mm512_div_ps(a, b); }
static inline F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F f_max(F a, F b) { return _mm512_max_ps(a, b); }
static inline F f_min(F a, F b) { return _mm512_min_ps(a, b); }
static inline F f_abs(F a) { return _mm512_abs_ps(a); }
static inline F f_of_int(I a) { return _mm512_cvtepi32_ps(a); }
static inline float f_sum(F a) { return _mm512_reduce_add_ps(a); }
static inline float f_largest(F a) { return _mm512_reduce_max_ps(a); }
static inline F f_of_bytes(const int8_t *p) { return f_of_int(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p))); }
static inline F f_of_half(const half *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
static inline void f_of_halves(I x, F *even, F *odd) {
    *even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
    *odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)));
}
static inline void half_store(half *p, F x) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
static inline void f_sum4(F a, F b, F c, F d, float *sums) {
    F ab = f_add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    F cd = f_add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    F all = f_add(_mm512_castpd_ps(low), _mm512_castpd_ps(high));  // each quarter: a part of a, b, c, d
    __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
}
static inline F f_times_two_to(F x, F n) { return _mm512_scalef_ps(x, n); }
static inline F f_round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE void f_transpose(F x[LANES]) {  // rows to columns: each quarter's 4 x 4, then the quarters
    F y[LANES];
    UNROLL for (int i = 0; i < LANES; i += 4) {
        const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(x[i], x[i + 1]));
        const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(x[i + 2], x[i + 3]));
        const __m512d ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(x[i], x[i + 1]));
        const __m512d cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(x[i + 2], x[i + 3]));
        y[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), y[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        y[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
        y[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
    }
    UNROLL for (int j = 0; j < 4; j++) {
        const F even = _mm512_shuffle_f32x4(y[j], y[4 + j], 0x88), odd = _mm512_shuffle_f32x4(y[j], y[4 + j], 0xdd);
        const F even2 = _mm512_shuffle_f32x4(y[8 + j], y[12 + j], 0x88);
        const F odd2 = _mm512_shuffle_f32x4(y[8 + j], y[12 + j], 0xdd);
        x[j] = _mm512_shuffle_f32x4(even, even2, 0x88), x[8 + j] = _mm512_shuffle_f32x4(even, even2, 0xdd);
        x[4 + j] = _mm512_shuffle_f32x4(odd, odd2, 0x88), x[12 + j] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
}

static inline I i_zero(void) { return _mm512_setzero_si512(); }
static inline I i_add(I a, I b) { return _mm512_add_epi32(a, b); }
static inline I i_times_128(I a) { return _mm512_slli_epi32(a, 7); }
static inline I i_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void i_store(void *p, I x) { _mm512_storeu_si512(p, x); }
static inline I i_look_up(I places, const uint8_t table[16]) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), places);
}
static inline I i_repeat4(const void *p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return _mm512_set1_epi32(bits);
}
static inline I i_dot(I sum, I codes, I x, int bits) {
    (void)bits;
    return _mm512_dpbusd_epi32(sum, codes, x);
}
static inline void i_store_bytes(int8_t *p, F x) {  // rounded
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
#define CODE_BIAS 0  // what `i_dots` takes from codes of 8 bits
#if defined(SIMD_BF16)
enum { HAS_PAIRS = 1 };
static inline F p_row(F first, F second) { return (F)_mm512_cvtne2ps_pbh(second, first); }
static inline F p_rows(F even, F odd) {
    const I low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    return (F)_mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd)), 16));
}
static inline F p_dot(F a, F b, F sum) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
#endif

#elif defined(SIMD_AVX2)
#include <immintrin.h>
#define LANES 8
typedef __m256 F;
typedef __m256i I;

static inline F f_set(float x) { return _mm256_set1_ps(x); }
static inline F f_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void f_store(float *p, F x) { _mm256_storeu_ps(p, x); }
static inline F f_add(F a, F b) { return _mm256_add_ps(a, b); }
static inline F f_sub(F a, F b) { return _mm256_sub_ps(a, b); }
static inline F f_mul(F a, F b) { return _mm256_mul_ps(a, b); }
static inline F f_div(F a, F b) { return _mm256_div_ps(a, b); }
static inline F f_fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F f_max(F a, F b) { return _mm256_max_ps(a, b); }
static inline F f_min(F a, F b) { return _mm256_min_ps(a, b); }
static inline F f_abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline F f_of_int(I a) { return _mm256_cvtepi32_ps(a); }
static inline float f_sum(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
static inline float f_largest(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
static inline F f_of_bytes(const int8_t *p) { return f_of_int(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p))); }
static inline F f_of_half(const half *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
static inline void f_of_halves(I x, F *even, F *odd) {
    const I low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(x, 16);
    const I apart = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    *even = _mm256_cvtph_ps(_mm256_castsi256_si128(apart));
    *odd = _mm256_cvtph_ps(_mm256_extracti128_si256(apart, 1));
}
static inline void half_store(half *p, F x) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
static inline void f_sum4(F a, F b, F c, F d, float *sums) {
    F all = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
static inline F f_times_two_to(F x, F n) {
    I exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
static inline F f_round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE void f_transpose(F x[LANES]) {  // rows to columns: each half's 4 x 4, then the halves
    F y[LANES];
    UNROLL for (int i = 0; i < LANES; i += 4) {
        const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(x[i], x[i + 1]));
        const __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(x[i + 2], x[i + 3]));
        const __m256d ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(x[i], x[i + 1]));
        const __m256d cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(x[i + 2], x[i + 3]));
        y[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), y[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
        y[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
        y[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
    }
    UNROLL for (int j = 0; j < 4; j++) {
        x[j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x20);
        x[4 + j] = _mm256_permute2f128_ps(y[j], y[4 + j], 0x31);
    }
}

static inline I i_zero(void) { return _mm256_setzero_si256(); }
static inline I i_add(I a, I b) { return _mm256_add_epi32(a, b); }
static inline I i_times_128(I a) { return _mm256_slli_epi32(a, 7); }
static inline I i_load(const void *p) { return _mm256_loadu_si256(p); }
static inline void i_store(void *p, I x) { _mm256_storeu_si256(p, x); }
static inline I i_look_up(I places, const uint8_t table[16]) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), places);
}
static inline I i_repeat4(const void *p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return _mm256_set1_epi32(bits);
}
static inline I i_pairs(I codes, I x, int bits) {  // sums of two products, 16 bits
    if (bits == 8) {  // codes less 128, their sign moved to x: such a sum then fits
        codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
        x = _mm256_sign_epi8(x, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_maddubs_epi16(codes, x);
}
static inline void i_store_bytes(int8_t *p, F x) {
    I words = _mm256_packs_epi32(_mm256_cvtps_epi32(x), i_zero());
    I bytes = _mm256_packs_epi16(words, i_zero());
    int32_t low = _mm256_extract_epi32(bytes, 0), high = _mm256_extract_epi32(bytes, 4);
    memcpy(p, &low, 4);
    memcpy(p + 4, &high, 4);
}
#define CODE_BIAS 128

#elif defined(SIMD_NEON)
#include <arm_neon.h>
#define LANES 4
typedef float32x4_t F;
typedef int32x4_t I;

static inline F f_set(float x) { return vdupq_n_f32(x); }
static inline F f_load(const float *p) { return vld1q_f32(p); }
static inline void f_store(float *p, F x) { vst1q_f32(p, x); }
static inline F f_add(F a, F b) { return vaddq_f32(a, b); }
static inline F f_sub(F a, F b) { return vsubq_f32(a, b); }
static inline F f_mul(F a, F b) { return vmulq_f32(a, b); }
static inline F f_div(F a, F b) { return vdivq_f32(a, b); }
static inline F f_fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
static inline F f_max(F a, F b) { return vmaxq_f32(a, b); }
static inline F f_min(F a, F b) { return vminq_f32(a, b); }
static inline F f_abs(F a) { return vabsq_f32(a); }
static inline F f_of_int(I a) { return vcvtq_f32_s32(a); }
static inline float f_sum(F a) { return vaddvq_f32(a); }
static inline float f_largest(F a) { return vmaxvq_f32(a); }
static inline F f_of_bytes(const int8_t *p) {
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return f_of_int(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
}
static inline F f_of_half(const half *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline void f_of_halves(I x, F *even, F *odd) {
    const uint32x4_t words = vreinterpretq_u32_s32(x);
    *even = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(words)));
    *odd = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(words, 16)));
}
static inline void half_store(half *p, F x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
static inline void f_sum4(F a, F b, F c, F d, float *sums) {
    f_store(sums, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}
static inline F f_times_two_to(F x, F n) {
    return vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)));
}
static inline F f_round(F x) { return vrndnq_f32(x); }
INLINE void f_transpose(F x[LANES]) {  // rows to columns
    const float64x2_t ab = vreinterpretq_f64_f32(vzip1q_f32(x[0], x[1]));
    const float64x2_t cd = vreinterpretq_f64_f32(vzip1q_f32(x[2], x[3]));
    const float64x2_t ab_high = vreinterpretq_f64_f32(vzip2q_f32(x[0], x[1]));
    const float64x2_t cd_high = vreinterpretq_f64_f32(vzip2q_f32(x[2], x[3]));
    x[0] = vreinterpretq_f32_f64(vzip1q_f64(ab, cd)), x[1] = vreinterpretq_f32_f64(vzip2q_f64(ab, cd));
    x[2] = vreinterpretq_f32_f64(vzip1q_f64(ab_high, cd_high)), x[3] = vreinterpretq_f32_f64(vzip2q_f64(ab_high, cd_high));
}

static inline I i_zero(void) { return vdupq_n_s32(0); }
static inline I i_add(I a, I b) { return vaddq_s32(a, b); }
static inline I i_times_128(I a) { return vshlq_n_s32(a, 7); }
static inline I i_load(const void *p) { return vreinterpretq_s32_s8(vld1q_s8(p)); }
static inline void i_store(void *p, I x) { vst1q_s32(p, x); }
static inline I i_look_up(I places, const uint8_t table[16]) {
    return vreinterpretq_s32_u8(vqtbl1q_u8(vld1q_u8(table), vreinterpretq_u8_s32(places)));
}
static inline I i_repeat4(const void *p) {
    int32_t bits;
    memcpy(&bits, p, 4);
    return vdupq_n_s32(bits);
}
static inline I i_dot(I sum, I codes, I x, int bits) {
    int8x16_t c = vreinterpretq_s8_s32(codes);
    if (bits == 8) c = veorq_s8(c, vdupq_n_s8(-128));
    return vdotq_s32(sum, c, vreinterpretq_s8_s32(x));
}
static inline void i_store_bytes(int8_t *p, F x) {
    int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(vcvtnq_s32_f32(x)), vdup_n_s16(0)));
    int32_t low = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
    memcpy(p, &low, 4);
}
#define CODE_BIAS 128
#endif

enum {
    AHEAD = 4096,                    // bytes that one token's weights are asked for before they are wanted
    TILE = 8,                        // tokens that are worked on at once
    TOGETHER = LANES == 8 ? 1 : TILE,  // of these, whose products are added up side by side: as registers are 16 or 32
    DOT_WORDS = LANES == 8 ? 4 : 1,  // that `i_dots` takes
};

// Each byte moved up by as many bits (below 0: down), and of that the bits in `mask`, none of which may come from
// another byte.
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
INLINE I i_bits(I x, const int up, const uint32_t mask) {
    const Words words = (Words)x;
    return (I)((up < 0 ? words >> -up : words << up) & mask * 0x01010101u);
}
INLINE I i_or(I a, I b) { return (I)((Words)a | (Words)b); }

// Pairs: two bfloat16 in the place of each float. A set that multiplies them says so. `p_row` makes them of the neighbours
// of a row of 2 LANES values, `p_rows` of the same places of two rows; `p_dot` adds both products of every pair.
#if !defined(SIMD_BF16)
enum { HAS_PAIRS = 0 };
// so that what asks for pairs compiles; none of the three is ever called
static inline F p_row(F first, F second) { return f_add(first, second); }
static inline F p_rows(F even, F odd) { return f_add(even, odd); }
static inline F p_dot(F a, F b, F sum) { return f_fma(a, b, sum); }
#endif

// `sum`, and in every lane the products of the codes in DOT_WORDS words with as many of x, of 8 bits.
#if defined(SIMD_AVX2)
INLINE I i_dots(I sum, const I *words, const int8_t *x, const int bits) {
    const int fit = bits > 6 ? 1 : bits > 5 ? 2 : 4;  // pairs of products whose sum fits 16 bits
    UNROLL for (int i = 0; i < DOT_WORDS; i += fit) {
        I pairs = i_pairs(words[i], i_repeat4(x + 4 * i), bits);
        UNROLL for (int j = i + 1; j < i + fit; j++)
            pairs = _mm256_add_epi16(pairs, i_pairs(words[j], i_repeat4(x + 4 * j), bits));
        sum = i_add(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
}
#else
INLINE I i_dots(I sum, const I *words, const int8_t *x, const int bits) {
    return i_dot(sum, *words, i_repeat4(x), bits);
}
#endif

// e^x for x <= 0, to one part in 1e7 (a polynomial of degree 6 on half a binade); below -87 it is 0 or next to it.
static inline F f_exp(F x) {
    x = f_max(x, f_set(-87.0f));
    F n = f_round(f_mul(x, f_set(1.44269504f)));
    F r = f_fma(n, f_set(-0.693359375f), x);
    r = f_fma(n, f_set(2.12194440e-4f), r);
    F p = f_set(1.0f / 720);
    p = f_fma(p, r, f_set(1.0f / 120));
    p = f_fma(p, r, f_set(1.0f / 24));
    p = f_fma(p, r, f_set(1.0f / 6));
    p = f_fma(p, r, f_set(0.5f));
    p = f_fma(p, r, f_set(1.0f));
    p = f_fma(p, r, f_set(1.0f));
    return f_times_two_to(p, n);
}
