#pragma once

/// Hora for C, and for every language that calls C: data-parallel work with compression. Link with
/// libhora (`pkg-config --cflags --libs hora`), start with horarun. docs/c.md has a whole program.
///
/// Errors: a function that returns int gives HORA_OK or another hora_code; hora_last_error() then
/// has the words. Arguments that make no sense are HORA_INVALID_ARGUMENT, and nothing was begun.
/// Threads: any thread may call any function, also with an engine that others use. Only
/// hora_free_engine() must be the last call with its engine.
/// Stability: functions, fields and numbers stay as they are; later versions append to them.

#include <stddef.h>
#include <stdint.h>

#define HORA_VERSION_MAJOR 0
#define HORA_VERSION_MINOR 1
#define HORA_VERSION_PATCH 0
/// Of this header. 12.3.4 is 120304.
#define HORA_VERSION (HORA_VERSION_MAJOR * 10000 + HORA_VERSION_MINOR * 100 + HORA_VERSION_PATCH)

#define HORA_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/// Why a call did not succeed. docs/errors.md says what to do about each.
typedef enum hora_code {
  HORA_OK = 0,
  HORA_INVALID_ARGUMENT = 1,  ///< the caller's mistake
  HORA_MISMATCH = 2,          ///< ranks disagree about a call; the job goes on
  HORA_JOINED = 3,            ///< a rank has joined, and zeros are not neutral for this call
  HORA_SET_REMOVED = 4,       ///< the process set was removed meanwhile
  HORA_PEER_LEFT = 5,         ///< a rank has shut down and will never make this call
  HORA_SHUTDOWN = 6,          ///< this engine has shut down
  HORA_PEER_LOST = 7,         ///< a rank died or fell silent; this engine will do no more
  HORA_TIMEOUT = 8,           ///< not all ranks came in time
  HORA_OUT_OF_MEMORY = 9,
  HORA_UNAVAILABLE = 10,  ///< not on this machine, in this build, or now
  HORA_CORRUPT = 11,      ///< bytes that no correct program has written
  HORA_INTERNAL = 12,     ///< our bug
} hora_code;

/// Element types.
typedef enum hora_dtype {
  HORA_UINT8 = 0,
  HORA_INT8 = 1,
  HORA_INT16 = 2,
  HORA_INT32 = 3,
  HORA_INT64 = 4,
  HORA_FLOAT16 = 5,
  HORA_BFLOAT16 = 6,
  HORA_FLOAT32 = 7,
  HORA_FLOAT64 = 8,
  HORA_BOOL = 9,  ///< one byte, 0 or 1
} hora_dtype;

/// How an allreduce makes one value of those of all ranks.
typedef enum hora_op {
  HORA_SUM = 0,
  HORA_AVERAGE = 1,
  HORA_MIN = 2,
  HORA_MAX = 3,
  HORA_PRODUCT = 4,
  HORA_ADASUM = 5,
} hora_op;

/// One rank's share of the runtime. A process may hold several, one after the other.
typedef struct hora_engine hora_engine;

/// An allreduce under way, until it was waited for. 0 is none.
typedef uint64_t hora_handle;

/// What a call may say besides its tensor. Set all of it to zero first, as `hora_options options =
/// {.name = "w"}` does: zero is the default of every field. NULL instead of options: all defaults.
typedef struct hora_options {
  /// Ranks pair calls by name, in whatever order they come; a name is in use until its call has
  /// ended. Compression remembers by name. NULL: calls without a name are paired in their order.
  const char* name;
  /// Of an allreduce by sum or average: a chain such as "onebit" (docs/compressors.md), or "none".
  /// NULL: the job's setting, HORA_COMPRESSION.
  const char* compression;
  /// Of an allreduce: factors on every rank's values before, and on the result. 0 counts as 1.
  double prescale, postscale;
  /// `dims` numbers, whose product is the tensor's count: "powersgd" needs the rows and columns of
  /// a matrix. NULL, and dims 0: one dimension.
  const int64_t* shape;
  int64_t dims;
  uint64_t reserved[8];  ///< zero
} hora_options;

/// HORA_VERSION of the library that is in use.
HORA_API int hora_version(void);

/// What went wrong in this thread's last call that gave no HORA_OK; empty if there was none. Good
/// until the thread's next such call. Never NULL.
HORA_API const char* hora_last_error(void);

/// Meets the other ranks of the job, as the environment says that horarun has set; alone, if nobody
/// launched this process. Waits for them up to HORA_START_TIMEOUT.
///
/// `earlier_starts`: how often this process has started an engine of this job before, the same on
/// all ranks; 0 in a program that starts one. The same number twice is an error: ranks would find
/// what they left for each other when they met before.
///
/// Ownership: *engine, NULL after an error, is the caller's, for hora_free_engine().
/// Errors: HORA_INVALID_ARGUMENT names a variable that makes no sense, HORA_TIMEOUT the ranks that
/// are missing; HORA_UNAVAILABLE in an elastic job, which this interface cannot take part in yet.
HORA_API int hora_start(uint32_t earlier_starts, hora_engine** engine);

/// Leaves the job: calls of other ranks that need this one fail with HORA_PEER_LEFT. Idempotent.
/// What is not finished gets HORA_SHUTDOWN. Memories of compression can still be saved.
HORA_API int hora_shutdown(hora_engine* engine);

/// hora_shutdown(), and frees the engine. NULL is fine.
HORA_API void hora_free_engine(hora_engine* engine);

/// Which of how many ranks this is, in the job and on its host. -1 if `engine` is NULL.
HORA_API int hora_rank(const hora_engine* engine);
HORA_API int hora_size(const hora_engine* engine);
HORA_API int hora_local_rank(const hora_engine* engine);
HORA_API int hora_local_size(const hora_engine* engine);

/// Reduces `count` elements (of hora_dtype `dtype`) of every rank by hora_op `op`, and puts the
/// result into every rank's `output`: the same memory as `input`, or memory apart from it. `count`
/// is at most 2^48; with 0 both may be NULL. Returns when it is done.
HORA_API int hora_allreduce(hora_engine* engine, const void* input, void* output, int64_t count,
                            int dtype, int op, const hora_options* options);

/// The same, but returns at once; what it gives tells only whether it has begun. Nobody may touch
/// the tensors until it has ended. `*handle`, 0 after an error, is for one hora_wait().
HORA_API int hora_allreduce_async(hora_engine* engine, const void* input, void* output,
                                  int64_t count, int dtype, int op, const hora_options* options,
                                  hora_handle* handle);

/// Waits for what a handle stands for, tells what became of it and uses the handle up.
HORA_API int hora_wait(hora_engine* engine, hora_handle handle);

/// Has it ended? Puts 1 or 0 into *done and returns at once; hora_wait() is still due. 1 also for a
/// handle that does not exist, which hora_wait() says.
HORA_API int hora_poll(hora_engine* engine, hora_handle handle, int* done);

/// Puts what rank `root` has in `data` into every rank's `data`.
HORA_API int hora_broadcast(hora_engine* engine, void* data, int64_t count, int dtype, int root,
                            const hora_options* options);

/// Gives every rank what all ranks have, one after the other in their order. Ranks may have
/// different counts; with a shape, different first dimensions.
///
/// Ownership: *result, NULL after an error, is the caller's, for hora_free_buffer(). It has
/// *result_count elements.
HORA_API int hora_allgather(hora_engine* engine, const void* input, int64_t count, int dtype,
                            const hora_options* options, void** result, int64_t* result_count);

/// Returns when all ranks have called it.
HORA_API int hora_barrier(hora_engine* engine, const hora_options* options);

/// What compression remembers on this rank (residuals, momenta, clocks), of tensor `name` or, with
/// NULL, of all: bytes for a checkpoint. Each rank saves its own, after the same step.
///
/// Ownership: *buffer is the caller's, for hora_free_buffer(); NULL after an error, and when
/// nothing is remembered, where *bytes is 0. Errors: HORA_UNAVAILABLE while calls are under way,
/// since part of a memory is then in messages.
HORA_API int hora_save_memories(hora_engine* engine, const char* name, void** buffer,
                                size_t* bytes);

/// Puts `count` saved memories, parts[i] of bytes[i], in the place of what this rank remembers. All
/// ranks load, before the same step. Giving all ranks' parts to every rank is always right.
///
/// With as many ranks as before each rank's own part is enough, and results go on to the bit.
/// Otherwise rank r of N is succeeded by rank r mod M of M. What is owed to the model is conserved:
/// its sum over the ranks for HORA_SUM, its mean for HORA_AVERAGE; what nobody loads is lost. A
/// tensor whose chain or size has changed begins anew.
///
/// Ownership: the parts are copied.
/// Errors: HORA_CORRUPT for damaged parts, and nothing was loaded; HORA_UNAVAILABLE as above.
HORA_API int hora_load_memories(hora_engine* engine, const void* const* parts, const size_t* bytes,
                                size_t count);

/// Frees what hora_allgather() or hora_save_memories() gave. NULL is fine.
HORA_API void hora_free_buffer(void* buffer);

#ifdef __cplusplus
}
#endif
