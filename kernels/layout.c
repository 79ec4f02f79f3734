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

// Blocks of 32 codes in 4 bits from even and odd columns to the first and the second half of the columns.
static void transpose_nibbles(const uint8_t *rows, size_t row_bytes, size_t blocks, uint8_t *to) {
    for (size_t lane = 0; lane < GROUP; lane++)
        for (size_t k = 0; k < blocks * BLOCK; k++) {
            const uint8_t code = rows[lane * row_bytes + k / 2] >> (k % 2 * 4) & 15;
            uint8_t *byte = to + ((k / BLOCK * 4 + k % 16 / 4) * GROUP + lane) * 4 + k % 4;
            *byte = k % BLOCK < 16 ? code : (uint8_t)(*byte | code << 4);
        }
}

void edgesink_side_by_side(const uint8_t *from, uint8_t *to, size_t rows, size_t row_bytes, size_t kept, size_t unit) {
    for (size_t row = 0; row < rows; row += GROUP, from += GROUP * row_bytes, to += GROUP * kept) {
        if (unit == 16) {
            transpose_nibbles(from, row_bytes, kept / 16, to);
        } else if (unit == 4) {
            transpose_words(from, row_bytes, kept / 4, (uint32_t *)to);
        } else {
            transpose_halves(from, row_bytes, kept / 2, (half *)to);
        }
    }
}
