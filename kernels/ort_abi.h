// What of ONNX Runtime's stable binary interface is used, by the operators here and by the Swift package: no header of
// ONNX Runtime is needed to compile either. A function is known by its place in OrtApi, counted from 0 in the order of
// the public header, which never changes.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef void *OrtHandle;     // of any class of ONNX Runtime
typedef OrtHandle OrtStatus; // NULL: all is well; else to be passed on or released
typedef void (*OrtFunction)(void);

typedef struct {
    const OrtFunction *(*get_api)(uint32_t version);  // NULL: an older ONNX Runtime
    const char *(*version)(void);
} OrtApiBase;

// ORT(api, Name)(...) calls the function declared here as Name.
#define ORT(api, name) ((Ort##name)(api)[ORT_##name])
#define ORT_FUNCTION(place, result, name, ...) \
    enum { ORT_##name = place };               \
    typedef result (*Ort##name)(__VA_ARGS__);

ORT_FUNCTION(0, OrtStatus, CreateStatus, int code, const char *message)
ORT_FUNCTION(2, const char *, GetErrorMessage, OrtStatus)
ORT_FUNCTION(3, OrtStatus, CreateEnv, int log_level, const char *name, OrtHandle *environment)
ORT_FUNCTION(7, OrtStatus, CreateSession, OrtHandle environment, const char *model, OrtHandle options, OrtHandle *)
ORT_FUNCTION(10, OrtStatus, CreateSessionOptions, OrtHandle *options)
ORT_FUNCTION(24, OrtStatus, SetIntraOpNumThreads, OrtHandle options, int threads)
ORT_FUNCTION(26, OrtStatus, CreateCustomOpDomain, const char *name, OrtHandle *domain)
ORT_FUNCTION(27, OrtStatus, CustomOpDomain_Add, OrtHandle domain, const void *custom_op)
ORT_FUNCTION(28, OrtStatus, AddCustomOpDomain, OrtHandle options, OrtHandle domain)
ORT_FUNCTION(49, OrtStatus, CreateTensorWithDataAsOrtValue, OrtHandle memory, void *data, size_t bytes,
             const int64_t *shape, size_t rank, int type, OrtHandle *value)
ORT_FUNCTION(51, OrtStatus, GetTensorMutableData, OrtHandle value, void **data)
ORT_FUNCTION(69, OrtStatus, CreateCpuMemoryInfo, int allocator, int memory_type, OrtHandle *memory)
ORT_FUNCTION(85, OrtStatus, KernelInfoGetAttribute_float, OrtHandle info, const char *name, float *value)
ORT_FUNCTION(86, OrtStatus, KernelInfoGetAttribute_int64, OrtHandle info, const char *name, int64_t *value)
ORT_FUNCTION(90, OrtStatus, KernelContext_GetInput, OrtHandle context, size_t place, OrtHandle *value)
ORT_FUNCTION(91, OrtStatus, KernelContext_GetOutput, OrtHandle context, size_t place, const int64_t *shape, size_t rank,
             OrtHandle *value)
ORT_FUNCTION(92, void, ReleaseEnv, OrtHandle)
ORT_FUNCTION(93, void, ReleaseStatus, OrtStatus)
ORT_FUNCTION(94, void, ReleaseMemoryInfo, OrtHandle)
ORT_FUNCTION(95, void, ReleaseSession, OrtHandle)
ORT_FUNCTION(96, void, ReleaseValue, OrtHandle)
ORT_FUNCTION(100, void, ReleaseSessionOptions, OrtHandle)
ORT_FUNCTION(133, OrtStatus, RunWithBinding, OrtHandle session, OrtHandle run_options, OrtHandle binding)
ORT_FUNCTION(134, OrtStatus, CreateIoBinding, OrtHandle session, OrtHandle *binding)
ORT_FUNCTION(135, void, ReleaseIoBinding, OrtHandle)
ORT_FUNCTION(136, OrtStatus, BindInput, OrtHandle binding, const char *name, OrtHandle value)
ORT_FUNCTION(137, OrtStatus, BindOutput, OrtHandle binding, const char *name, OrtHandle value)
ORT_FUNCTION(237, OrtStatus, HasSessionConfigEntry, OrtHandle options, const char *key, int *has)
ORT_FUNCTION(274, OrtStatus, KernelContext_ParallelFor, OrtHandle context, void (*task)(void *, size_t), size_t tasks,
             size_t batches, void *of)
ORT_FUNCTION(414, OrtStatus, GetTensorElementTypeAndShapeDataReference, OrtHandle value, int *type,
             const int64_t **shape, size_t *rank)

enum { ORT_APP_API = 16, ORT_OPERATORS_API = 24 };  // the oldest versions that have all that an app, the operators call
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };    // of a status
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT64 = 7, ORT_FLOAT16 = 10 };  // of a tensor's elements
enum { ORT_ANY = 0 };  // of one input of an operator and one output: the output's elements are then the input's
enum { ORT_LOG_ERROR = 3, ORT_DEVICE_ALLOCATOR = 0, ORT_MEMORY_DEFAULT = 0 };

// An operator of our own, as far as version 16 reads it: from there on its functions return a status.
enum { ORT_CUSTOM_OP_VERSION = 16, ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };
typedef struct OrtCustomOp OrtCustomOp;
struct OrtCustomOp {
    uint32_t version;
    void *(*create_without_status)(const OrtCustomOp *, const OrtFunction *api, OrtHandle info);  // NULL
    const char *(*name)(const OrtCustomOp *);
    const char *(*provider)(const OrtCustomOp *);  // gives NULL: the CPU
    int (*input_type)(const OrtCustomOp *, size_t place);
    size_t (*inputs)(const OrtCustomOp *);
    int (*output_type)(const OrtCustomOp *, size_t place);
    size_t (*outputs)(const OrtCustomOp *);
    void (*compute_without_status)(void *kernel, OrtHandle context);  // NULL
    void (*destroy)(void *kernel);
    int (*input_characteristic)(const OrtCustomOp *, size_t place);
    int (*output_characteristic)(const OrtCustomOp *, size_t place);
    int (*input_memory)(const OrtCustomOp *, size_t place);  // ORT_MEMORY_DEFAULT
    int (*variadic_inputs_least)(const OrtCustomOp *);       // these four NULL: nothing is variadic
    int (*variadic_inputs_alike)(const OrtCustomOp *);
    int (*variadic_outputs_least)(const OrtCustomOp *);
    int (*variadic_outputs_alike)(const OrtCustomOp *);
    OrtStatus (*create)(const OrtCustomOp *, const OrtFunction *api, OrtHandle info, void **kernel);
    OrtStatus (*compute)(void *kernel, OrtHandle context);
};
