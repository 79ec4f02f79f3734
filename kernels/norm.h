// RMSNorm in the words of simd.h: of what goes into a product, of what comes out of one, and of a head.
#pragma once

#include <math.h>

#include "simd.h"

// Of n values, a multiple of GROUP.
static float inverse_rms(const float *x, int64_t n, float epsilon) {
    F sum = f_set(0);
    for (int64_t k = 0; k < n; k += LANES) sum = f_fma(f_load(x + k), f_load(x + k), sum);
    return 1.0f / sqrtf(f_sum(sum) / (float)n + epsilon);
}

// x / rms(x) * weight; `out` may be x.
static void rms_norm(const float *x, const float *weight, int64_t n, float epsilon, float *out) {
    const F inverse = f_set(inverse_rms(x, n, epsilon));
    for (int64_t k = 0; k < n; k += LANES) f_store(out + k, f_mul(f_mul(f_load(x + k), inverse), f_load(weight + k)));
}
