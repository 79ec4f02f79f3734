// 64-bit ARM with products of bytes: Apple's processors, Cortex-A76 and later.
#if defined(__aarch64__)
#include <arm_neon.h>
#define SIMD_NEON
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include "attention.h"
#include "kernel_table.h"
#include "product.h"

static int supported(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
#else
    return 1;
#endif
}

static PRODUCT_KERNELS(products_neon)
ATTENTION_KERNELS(attentions)
KERNEL_TABLE(kernels_neon, "NEON", supported, products_neon, attentions)
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
