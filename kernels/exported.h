// What the library gives to those who open it: ONNX Runtime calls RegisterCustomOps, Python the others by name.
#pragma once

#include <stddef.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

// The name of the kernels that this processor runs, the fastest at place 0; NULL beyond the last.
EXPORT const char *edgesink_kernels(size_t place);

// Take other kernels than the fastest, in every session of this process; beyond the last nothing changes.
EXPORT void edgesink_choose_kernels(size_t place);
