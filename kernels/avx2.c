// x86-64 with AVX2: every processor of the last ten years.
#if defined(__x86_64__)
#include <immintrin.h>
#define SIMD_AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#include "attention.h"
#include "kernel_table.h"
#include "product.h"

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static PRODUCT_KERNELS(products_avx2)
ATTENTION_KERNELS(attentions)
KERNEL_TABLE(kernels_avx2, "AVX2", supported, products_avx2, attentions)
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
