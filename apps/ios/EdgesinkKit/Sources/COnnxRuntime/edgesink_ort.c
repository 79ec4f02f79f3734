#include "edgesink_ort.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "ort_abi.h"

struct edgesink_ort {
    void *library;
    const OrtApiBase *base;
    const OrtFunction *api;
    OrtHandle environment, session, memory, binding;
};

static int failed(const edgesink_ort *ort, OrtStatus status, char *error, size_t error_size) {
    if (!status) return 0;
    snprintf(error, error_size, "%s", ORT(ort->api, GetErrorMessage)(status));
    ORT(ort->api, ReleaseStatus)(status);
    return -1;
}

static int load_library(edgesink_ort *ort, const char *library, char *error, size_t error_size) {
    ort->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!ort->library) {
        snprintf(error, error_size, "%s", dlerror());
        return -1;
    }
    const OrtApiBase *(*get_base)(void) = (const OrtApiBase *(*)(void))dlsym(ort->library, "OrtGetApiBase");
    ort->base = get_base ? get_base() : NULL;
    ort->api = ort->base ? ort->base->get_api(ORT_APP_API) : NULL;
    if (ort->api) return 0;
    snprintf(error, error_size, "no ONNX Runtime with API %d or newer", ORT_APP_API);
    return -1;
}

static int open_session(edgesink_ort *ort, const char *model, int threads, char *error, size_t error_size) {
    const OrtFunction *api = ort->api;
    OrtHandle options = NULL;
    OrtStatus status = ORT(api, CreateEnv)(ORT_LOG_ERROR, "edgesink", &ort->environment);
    if (!status) status = ORT(api, CreateSessionOptions)(&options);
    if (!status && threads > 0) status = ORT(api, SetIntraOpNumThreads)(options, threads);
    if (!status) status = ORT(api, CreateSession)(ort->environment, model, options, &ort->session);
    if (options) ORT(api, ReleaseSessionOptions)(options);
    return failed(ort, status, error, error_size);
}

static int open_binding(edgesink_ort *ort, char *error, size_t error_size) {
    OrtStatus status = ORT(ort->api, CreateCpuMemoryInfo)(ORT_DEVICE_ALLOCATOR, ORT_MEMORY_DEFAULT, &ort->memory);
    if (!status) status = ORT(ort->api, CreateIoBinding)(ort->session, &ort->binding);
    return failed(ort, status, error, error_size);
}

edgesink_ort *edgesink_ort_open(const char *library, const char *model, int threads, char *error, size_t error_size) {
    edgesink_ort *ort = calloc(1, sizeof *ort);
    if (!ort) return NULL;
    if (load_library(ort, library, error, error_size) == 0 && open_session(ort, model, threads, error, error_size) == 0 &&
        open_binding(ort, error, error_size) == 0)
        return ort;
    edgesink_ort_close(ort);
    return NULL;
}

int edgesink_ort_bind(edgesink_ort *ort, const char *name, int is_output, enum edgesink_ort_type type, void *data,
                      size_t bytes, const int64_t *shape, size_t rank, char *error, size_t error_size) {
    const OrtFunction *api = ort->api;
    OrtHandle value = NULL;
    OrtStatus status =
        ORT(api, CreateTensorWithDataAsOrtValue)(ort->memory, data, bytes, shape, rank, (int)type, &value);
    if (failed(ort, status, error, error_size) != 0) return -1;
    status = is_output ? ORT(api, BindOutput)(ort->binding, name, value) : ORT(api, BindInput)(ort->binding, name, value);
    ORT(api, ReleaseValue)(value);  // the binding holds its own reference
    return failed(ort, status, error, error_size);
}

int edgesink_ort_run(edgesink_ort *ort, char *error, size_t error_size) {
    return failed(ort, ORT(ort->api, RunWithBinding)(ort->session, NULL, ort->binding), error, error_size);
}

const char *edgesink_ort_version(const edgesink_ort *ort) { return ort->base->version(); }

// The library itself stays loaded: its threads may outlive the session by a moment.
void edgesink_ort_close(edgesink_ort *ort) {
    if (!ort) return;
    if (ort->binding) ORT(ort->api, ReleaseIoBinding)(ort->binding);
    if (ort->session) ORT(ort->api, ReleaseSession)(ort->session);
    if (ort->memory) ORT(ort->api, ReleaseMemoryInfo)(ort->memory);
    if (ort->environment) ORT(ort->api, ReleaseEnv)(ort->environment);
    free(ort);
}
