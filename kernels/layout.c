// Rows of weights laid side by side, as `Matrix` in kernels.h has them.
#include "exported.h"
#include "kernels.h"

size_t edgesink_group(void) { return GROUP; }

static void transpose_words(const uint8_t *rows, size_t row_bytes, size_t words, uint32_t *to) {
    for (size_t lane = 0; lane < GROUP; lane++)
        for (size_t i = 0; i < words; i++) to[i * GROUP + lane] = ((const uint32_t *)(rows + lane * row_bytes))[i];
}

static void transpose_halves(const uint8_t *rows, size_t row_bytes, size_t halves, half *to) {
    for (size_t lane = 0; lane < GROUP; lane++)
        for (size_t i = 0; i < halves; i++) to[i * GROUP + lane] = ((const half *)(rows + lane * row_bytes))[i];
}

void edgesink_side_by_side(const uint8_t *from, uint8_t *to, size_t rows, size_t row_bytes, size_t kept, size_t unit) {
    for (size_t row = 0; row < rows; row += GROUP, from += GROUP * row_bytes, to += GROUP * kept) {
        if (unit == 4) {
            transpose_words(from, row_bytes, kept / 4, (uint32_t *)to);
        } else {
            transpose_halves(from, row_bytes, kept / 2, (half *)to);
        }
    }
}
