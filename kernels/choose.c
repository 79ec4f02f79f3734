// Which kernels run here, and the memory that they work in.
#include <stdlib.h>

#include "kernels.h"

const Kernels *supported_kernels(size_t place) {
#if defined(__x86_64__)
    const Kernels *known[] = {&kernels_avx512_bf16, &kernels_avx512, &kernels_avx2};
    enum { KNOWN = 3 };
#elif defined(__aarch64__)
    const Kernels *known[] = {&kernels_neon};
    enum { KNOWN = 1 };
#else
    const Kernels *known[] = {NULL};
    enum { KNOWN = 0 };
#endif
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i]->supported() && place-- == 0) return known[i];
    return NULL;
}

void *thread_scratch(ScratchUse use, size_t bytes) {
    static _Thread_local struct {
        void *memory;
        size_t bytes;
    } held[2];
    if (bytes > held[use].bytes) {
        free(held[use].memory);
        held[use].bytes = (bytes + 4095) / 4096 * 4096;
        held[use].memory = aligned_alloc(64, held[use].bytes);
        if (!held[use].memory) held[use].bytes = 0;
    }
    return held[use].memory;
}
