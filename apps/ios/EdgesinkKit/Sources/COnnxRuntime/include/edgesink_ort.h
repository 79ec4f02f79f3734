// ONNX Runtime as a backend needs it: open a graph, bind memory to its ends, run. No header of ONNX Runtime is used: its
// C API is a struct of function pointers whose order never changes, loaded from the shared library by name at run time.
#ifndef EDGESINK_ORT_H
#define EDGESINK_ORT_H

#include <stddef.h>
#include <stdint.h>

typedef struct edgesink_ort edgesink_ort;

enum edgesink_ort_type { EDGESINK_ORT_FLOAT = 1, EDGESINK_ORT_INT64 = 7 };  // as in ONNX's TensorProto

/// Loads `library` and the graph `model`; NULL on failure, with the reason in `error`. `threads` 0: every core.
edgesink_ort *edgesink_ort_open(const char *library, const char *model, int threads, char *error, size_t error_size);

/// Binds caller-owned memory to an input or an output, until bound anew. Returns 0, or -1 with the reason in `error`.
int edgesink_ort_bind(edgesink_ort *ort, const char *name, int is_output, enum edgesink_ort_type type, void *data,
                      size_t bytes, const int64_t *shape, size_t rank, char *error, size_t error_size);

/// Runs the graph over what is bound.
int edgesink_ort_run(edgesink_ort *ort, char *error, size_t error_size);

/// The library's version; valid as long as `ort`.
const char *edgesink_ort_version(const edgesink_ort *ort);

void edgesink_ort_close(edgesink_ort *ort);

#endif
