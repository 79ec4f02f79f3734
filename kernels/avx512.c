// x86-64 with AVX-512 and its products of bytes: Ice Lake, Zen 4 and later.
#if defined(__x86_64__)
#include <immintrin.h>
#define SIMD_AVX512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c,prefer-vector-width=512")
#endif
#include "attention.h"
#include "kernel_table.h"
#include "product.h"

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

PRODUCT_KERNELS(products_avx512)
ATTENTION_KERNELS(attentions)
KERNEL_TABLE(kernels_avx512, "AVX-512 VNNI", supported, products_avx512, attentions)
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
