// What the library gives to those who open it: ONNX Runtime calls RegisterCustomOps, Python the others by name.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// Rows that lie side by side.
EXPORT size_t edgesink_group(void);

// Rows of units of 4 or 2 bytes to sixteen side by side, [rows, row_bytes] -> [rows / 16, kept / unit, 16, unit]: whole
// groups of rows, of each row the first `kept` bytes. Both are aligned to units. Unit 16: blocks of codes in 4 bits, two
// columns a byte, which become what `Matrix` wants.
EXPORT void edgesink_side_by_side(const uint8_t *from, uint8_t *to, size_t rows, size_t row_bytes, size_t kept,
                                  size_t unit);

// The name of the kernels that this processor runs, the fastest at place 0; NULL beyond the last.
EXPORT const char *edgesink_kernels(size_t place);

// Take other kernels than the fastest, in every session of this process; beyond the last nothing changes.
EXPORT void edgesink_choose_kernels(size_t place);
