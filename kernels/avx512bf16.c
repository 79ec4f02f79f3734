// x86-64 with AVX-512 and its products of bfloat16: Zen 4, Sapphire Rapids and later. Products with weights are AVX-512's.
#if defined(__x86_64__)
#include <immintrin.h>
#define SIMD_AVX512
#define SIMD_BF16
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#endif
#include "attention.h"
#include "kernel_table.h"

static int supported(void) { return kernels_avx512.supported() && __builtin_cpu_supports("avx512bf16"); }

ATTENTION_KERNELS(attentions)
KERNEL_TABLE(kernels_avx512_bf16, "AVX-512 BF16", supported, products_avx512, attentions)
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
