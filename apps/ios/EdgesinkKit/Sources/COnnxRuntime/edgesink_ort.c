#include "edgesink_ort.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

// Places in OrtApi, counted from 0 in the order of the public header; part of ONNX Runtime's stable binary interface.
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24,
    CREATE_TENSOR_WITH_DATA = 49,
    CREATE_CPU_MEMORY_INFO = 69,
    RELEASE_ENV = 92,
    RELEASE_STATUS = 93,
    RELEASE_MEMORY_INFO = 94,
    RELEASE_SESSION = 95,
    RELEASE_VALUE = 96,
    RELEASE_SESSION_OPTIONS = 100,
    RUN_WITH_BINDING = 133,
    CREATE_IO_BINDING = 134,
    RELEASE_IO_BINDING = 135,
    BIND_INPUT = 136,
    BIND_OUTPUT = 137,
};

enum { API_VERSION = 16, LOG_ERROR = 3, DEVICE_ALLOCATOR = 0, MEMORY_DEFAULT = 0 };

typedef void *Handle;  // of any class of ONNX Runtime
typedef void (*Function)(void);
typedef struct {
    const Function *(*get_api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;

struct edgesink_ort {
    void *library;
    const ApiBase *base;
    const Function *api;
    Handle environment, session, memory, binding;
};

#define CALL(ort, place, type, ...) ((type)(ort)->api[place])(__VA_ARGS__)

typedef void (*Release)(Handle);

static int failed(const edgesink_ort *ort, Handle status, char *error, size_t error_size) {
    if (!status) return 0;
    typedef const char *(*Message)(Handle);
    snprintf(error, error_size, "%s", CALL(ort, GET_ERROR_MESSAGE, Message, status));
    CALL(ort, RELEASE_STATUS, Release, status);
    return -1;
}

static int load_library(edgesink_ort *ort, const char *library, char *error, size_t error_size) {
    ort->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!ort->library) {
        snprintf(error, error_size, "%s", dlerror());
        return -1;
    }
    const ApiBase *(*get_base)(void) = (const ApiBase *(*)(void))dlsym(ort->library, "OrtGetApiBase");
    ort->base = get_base ? get_base() : NULL;
    ort->api = ort->base ? ort->base->get_api(API_VERSION) : NULL;
    if (ort->api) return 0;
    snprintf(error, error_size, "no ONNX Runtime with API %d or newer", API_VERSION);
    return -1;
}

static int open_session(edgesink_ort *ort, const char *model, int threads, char *error, size_t error_size) {
    typedef Handle (*CreateEnv)(int, const char *, Handle *);
    typedef Handle (*CreateOptions)(Handle *);
    typedef Handle (*SetInt)(Handle, int);
    typedef Handle (*CreateSession)(Handle, const char *, Handle, Handle *);
    Handle options = NULL;
    int result = failed(ort, CALL(ort, CREATE_ENV, CreateEnv, LOG_ERROR, "edgesink", &ort->environment), error, error_size);
    if (result == 0) result = failed(ort, CALL(ort, CREATE_SESSION_OPTIONS, CreateOptions, &options), error, error_size);
    if (result == 0 && threads > 0)
        result = failed(ort, CALL(ort, SET_INTRA_OP_NUM_THREADS, SetInt, options, threads), error, error_size);
    if (result == 0)
        result = failed(ort, CALL(ort, CREATE_SESSION, CreateSession, ort->environment, model, options, &ort->session),
                        error, error_size);
    if (options) CALL(ort, RELEASE_SESSION_OPTIONS, Release, options);
    return result;
}

static int open_binding(edgesink_ort *ort, char *error, size_t error_size) {
    typedef Handle (*CreateMemory)(int, int, Handle *);
    typedef Handle (*CreateBinding)(Handle, Handle *);
    int result = failed(ort, CALL(ort, CREATE_CPU_MEMORY_INFO, CreateMemory, DEVICE_ALLOCATOR, MEMORY_DEFAULT, &ort->memory),
                        error, error_size);
    if (result != 0) return result;
    return failed(ort, CALL(ort, CREATE_IO_BINDING, CreateBinding, ort->session, &ort->binding), error, error_size);
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
    typedef Handle (*CreateTensor)(Handle, void *, size_t, const int64_t *, size_t, int, Handle *);
    typedef Handle (*Bind)(Handle, const char *, Handle);
    Handle value = NULL;
    Handle status = CALL(ort, CREATE_TENSOR_WITH_DATA, CreateTensor, ort->memory, data, bytes, shape, rank, type, &value);
    if (failed(ort, status, error, error_size) != 0) return -1;
    status = CALL(ort, is_output ? BIND_OUTPUT : BIND_INPUT, Bind, ort->binding, name, value);
    CALL(ort, RELEASE_VALUE, Release, value);  // the binding holds its own reference
    return failed(ort, status, error, error_size);
}

int edgesink_ort_run(edgesink_ort *ort, char *error, size_t error_size) {
    typedef Handle (*Run)(Handle, Handle, Handle);
    return failed(ort, CALL(ort, RUN_WITH_BINDING, Run, ort->session, NULL, ort->binding), error, error_size);
}

const char *edgesink_ort_version(const edgesink_ort *ort) { return ort->base->version(); }

// The library itself stays loaded: its threads may outlive the session by a moment.
void edgesink_ort_close(edgesink_ort *ort) {
    if (!ort) return;
    if (ort->binding) CALL(ort, RELEASE_IO_BINDING, Release, ort->binding);
    if (ort->session) CALL(ort, RELEASE_SESSION, Release, ort->session);
    if (ort->memory) CALL(ort, RELEASE_MEMORY_INFO, Release, ort->memory);
    if (ort->environment) CALL(ort, RELEASE_ENV, Release, ort->environment);
    free(ort);
}
