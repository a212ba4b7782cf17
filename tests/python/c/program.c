/* What test_c.py runs, as C99:
 *
 *     program collectives                         every operation, on exact numbers
 *     program mistakes                            wrong arguments, alone
 *     program disagree                            an error that all ranks get
 *     program steps FIRST LAST [HOW FOLDER]       compressed allreduces; prints each result's bits
 *
 * HOW is `save`: writes this rank's memories after step FIRST + 5 and goes on; `load`: begins with
 * what all ranks have written; `own`: with what this rank has.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hora/hora.h>

#define EXPECT(truth)                     \
  do {                                    \
    if (!(truth)) fail(__LINE__, #truth); \
  } while (0)
#define OK(call) EXPECT((call) == HORA_OK)

static void fail(int line, const char* text) {
  fprintf(stderr, "program.c:%d: %s is not so; last error: %s\n", line, text, hora_last_error());
  exit(1);
}

/* The call was refused as the caller's mistake, in words that have `words` in them. */
static void refused_at(int line, int code, const char* words) {
  if (code == HORA_INVALID_ARGUMENT && strstr(hora_last_error(), words) != NULL) return;
  fprintf(stderr, "program.c:%d: code %d, words '%s', not '%s'\n", line, code, hora_last_error(),
          words);
  exit(1);
}
#define REFUSED(call, words) refused_at(__LINE__, call, words)

static void collectives(hora_engine* engine) {
  const int rank = hora_rank(engine), size = hora_size(engine);
  EXPECT(hora_local_rank(engine) == rank && hora_local_size(engine) == size);

  float ones[3] = {1, 2, 3}, sum[3];
  OK(hora_allreduce(engine, ones, sum, 3, HORA_FLOAT32, HORA_SUM, NULL));
  for (int i = 0; i < 3; i++) EXPECT(sum[i] == (float)(size * (i + 1)) && ones[i] == (float)i + 1);

  const int64_t shape[2] = {1, 3};
  hora_options options = {.name = "scaled", .prescale = 4, .postscale = 0.5};
  options.shape = shape;
  options.dims = 2;
  OK(hora_allreduce(engine, sum, sum, 3, HORA_FLOAT32, HORA_MAX, &options));
  for (int i = 0; i < 3; i++) EXPECT(sum[i] == (float)(2 * size * (i + 1)));

  int64_t low = rank, high = rank;
  hora_handle handles[2];
  OK(hora_allreduce_async(engine, &low, &low, 1, HORA_INT64, HORA_MIN, NULL, &handles[0]));
  OK(hora_allreduce_async(engine, &high, &high, 1, HORA_INT64, HORA_MAX, NULL, &handles[1]));
  int done = 0;
  while (!done) OK(hora_poll(engine, handles[1], &done));
  OK(hora_wait(engine, handles[1]));
  OK(hora_wait(engine, handles[0]));
  EXPECT(low == 0 && high == size - 1);
  REFUSED(hora_wait(engine, handles[0]), "no such handle");

  double from_last = rank;
  OK(hora_broadcast(engine, &from_last, 1, HORA_FLOAT64, size - 1, NULL));
  EXPECT(from_last == size - 1);

  /* Rank r has r + 1 numbers. */
  int32_t mine[8];
  for (int i = 0; i < 8; i++) mine[i] = 10 * rank + i;
  void* result;
  int64_t count;
  OK(hora_allgather(engine, mine, rank + 1, HORA_INT32, NULL, &result, &count));
  EXPECT(count == size * (size + 1) / 2);
  const int32_t* next = result;
  for (int r = 0; r < size; r++)
    for (int i = 0; i <= r; i++) EXPECT(*next++ == 10 * r + i);
  hora_free_buffer(result);
  OK(hora_allgather(engine, NULL, 0, HORA_INT32, NULL, &result, &count));
  EXPECT(count == 0);
  hora_free_buffer(result);

  OK(hora_allreduce(engine, NULL, NULL, 0, HORA_FLOAT32, HORA_SUM, NULL));
  OK(hora_barrier(engine, NULL));
}

static void mistakes(hora_engine* engine) {
  float x[4] = {0}, y[4];
  hora_handle handle = 7;
  void* buffer = x;
  size_t bytes = 7;
  int64_t count = 7;
  int done;
  const int f = HORA_FLOAT32, sum = HORA_SUM;

  REFUSED(hora_start(0, NULL), "engine is NULL");
  REFUSED(hora_shutdown(NULL), "engine is NULL");
  EXPECT(hora_rank(NULL) == -1 && hora_local_size(NULL) == -1);
  hora_free_engine(NULL);
  hora_free_buffer(NULL);

  REFUSED(hora_allreduce(NULL, x, y, 4, f, sum, NULL), "engine is NULL");
  REFUSED(hora_allreduce(engine, NULL, y, 4, f, sum, NULL), "memory is NULL");
  REFUSED(hora_allreduce(engine, x, NULL, 4, f, sum, NULL), "output is NULL");
  REFUSED(hora_allreduce(engine, x, y, -1, f, sum, NULL), "count is -1");
  REFUSED(hora_allreduce(engine, x, y, INT64_MAX, f, sum, NULL), "2^48");
  REFUSED(hora_allreduce(engine, x, y, 4, 10, sum, NULL), "dtype 10 does not exist");
  REFUSED(hora_allreduce(engine, x, y, 4, -1, sum, NULL), "dtype -1 does not exist");
  REFUSED(hora_allreduce(engine, x, y, 4, f, 6, NULL), "op 6 does not exist");
  REFUSED(hora_allreduce(engine, x, y, 4, HORA_BOOL, HORA_AVERAGE, NULL), "average of bool");

  const int64_t shape[3] = {2, 2, 2}, negative[2] = {-2, -2};
  const int64_t huge[3] = {1 << 30, 1 << 30, 1 << 30};
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &(hora_options){.dims = 1}), "shape is NULL");
  hora_options options = {.shape = shape, .dims = 3};
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &options), "8 elements, but count is 4");
  options.dims = 17;
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &options), "dims is 17");
  options = (hora_options){.shape = negative, .dims = 2};
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &options), "dimension -2");
  options = (hora_options){.shape = huge, .dims = 3};
  REFUSED(hora_allreduce(engine, x, y, 0, f, sum, &options), "2^48");
  options = (hora_options){.compression = "onebits"};
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &options), "onebit");
  options = (hora_options){.name = NULL};
  options.reserved[7] = 1;
  REFUSED(hora_allreduce(engine, x, y, 4, f, sum, &options), "reserved is not zero");

  REFUSED(hora_allreduce_async(engine, x, y, 4, f, sum, NULL, NULL), "handle is NULL");
  REFUSED(hora_allreduce_async(engine, x, y, 4, 99, sum, NULL, &handle), "dtype 99");
  EXPECT(handle == 0);
  REFUSED(hora_wait(engine, handle), "no such handle");
  REFUSED(hora_wait(NULL, handle), "engine is NULL");
  REFUSED(hora_poll(engine, handle, NULL), "done is NULL");
  OK(hora_poll(engine, handle, &done));
  EXPECT(done == 1);

  REFUSED(hora_broadcast(engine, NULL, 1, f, 0, NULL), "memory is NULL");
  REFUSED(hora_broadcast(engine, x, 4, f, 1, NULL), "root rank 1 is not in a world of 1");
  options = (hora_options){.postscale = 2};
  REFUSED(hora_broadcast(engine, x, 4, f, 0, &options), "are for allreduce, not for broadcast");
  options = (hora_options){.compression = "onebit"};
  REFUSED(hora_barrier(engine, &options), "only allreduce takes a compression");
  REFUSED(hora_barrier(NULL, NULL), "engine is NULL");
  REFUSED(hora_allgather(engine, x, 4, f, NULL, NULL, &count), "result is NULL");
  REFUSED(hora_allgather(engine, x, 4, f, NULL, &buffer, NULL), "result_count is NULL");
  REFUSED(hora_allgather(engine, x, INT64_MAX / 2, f, NULL, &buffer, &count), "2^48");
  EXPECT(buffer == NULL && count == 0);

  REFUSED(hora_save_memories(engine, NULL, NULL, &bytes), "buffer is NULL");
  REFUSED(hora_save_memories(engine, NULL, &buffer, NULL), "bytes is NULL");
  OK(hora_save_memories(engine, NULL, &buffer, &bytes));
  EXPECT(buffer == NULL && bytes == 0); /* nothing is remembered */
  const void* const parts[2] = {"none of ours", NULL};
  const size_t sizes[2] = {12, 12};
  REFUSED(hora_load_memories(engine, NULL, sizes, 1), "parts is NULL");
  REFUSED(hora_load_memories(engine, parts, NULL, 1), "bytes is NULL");
  REFUSED(hora_load_memories(engine, parts, sizes, 2), "a part is NULL");
  EXPECT(hora_load_memories(engine, parts, sizes, 1) == HORA_CORRUPT);
  EXPECT(strstr(hora_last_error(), "damaged") != NULL);

  OK(hora_allreduce(engine, x, y, 4, f, sum, NULL)); /* nothing was disturbed */
  OK(hora_shutdown(engine));
  OK(hora_shutdown(engine));
  EXPECT(hora_allreduce(engine, x, y, 4, f, sum, NULL) == HORA_SHUTDOWN);
}

static void disagree(hora_engine* engine) {
  float x[4] = {1, 1, 1, 1};
  const hora_options options = {.name = "w"};
  const int code =
      hora_allreduce(engine, x, x, 3 + hora_rank(engine), HORA_FLOAT32, HORA_SUM, &options);
  EXPECT(code == HORA_MISMATCH);
  printf("%s\n", hora_last_error());
  OK(hora_allreduce(engine, x, x, 4, HORA_FLOAT32, HORA_SUM, &options)); /* the job goes on */
}

enum { COUNT = 5000 };

static void write_part(const char* folder, int rank, const void* part, size_t bytes) {
  char path[4096];
  snprintf(path, sizeof(path), "%s/%d", folder, rank);
  FILE* file = fopen(path, "wb");
  EXPECT(file != NULL && fwrite(part, 1, bytes, file) == bytes && fclose(file) == 0);
}

static void save(hora_engine* engine, const char* folder) {
  void* part;
  size_t bytes, few;
  OK(hora_save_memories(engine, "no such tensor", &part, &few));
  EXPECT(part == NULL && few == 0);
  OK(hora_save_memories(engine, NULL, &part, &bytes));
  EXPECT(bytes > sizeof(float) * COUNT);
  write_part(folder, hora_rank(engine), part, bytes);
  hora_free_buffer(part);
}

/* Loads what ranks `first` to `last` have saved, as far as they exist; one more part is empty. */
static void load(hora_engine* engine, const char* folder, int first, int last) {
  void* parts[9] = {NULL};
  size_t bytes[9] = {0}, count = 0;
  for (int rank = first; rank <= last; rank++, count++) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/%d", folder, rank);
    FILE* file = fopen(path, "rb");
    if (file == NULL) break;
    EXPECT(fseek(file, 0, SEEK_END) == 0);
    bytes[count] = (size_t)ftell(file);
    rewind(file);
    parts[count] = malloc(bytes[count]);
    EXPECT(parts[count] != NULL && fread(parts[count], 1, bytes[count], file) == bytes[count]);
    fclose(file);
  }
  OK(hora_load_memories(engine, (const void* const*)parts, bytes, count + 1));
  for (size_t i = 0; i < count; i++) free(parts[i]);
}

/* FNV-1a, so that one line stands for all bits. */
static unsigned long long digest(const float* values) {
  const unsigned char* bytes = (const unsigned char*)values;
  unsigned long long hash = 14695981039346656037ull;
  for (size_t i = 0; i < COUNT * sizeof(float); i++) hash = (hash ^ bytes[i]) * 1099511628211ull;
  return hash;
}

static void steps(hora_engine* engine, int first, int last, const char* what, const char* folder) {
  static float gradient[COUNT], mean[COUNT];
  const hora_options onebit = {.name = "gradient", .compression = "onebit"};
  const int rank = hora_rank(engine);
  if (strcmp(what, "load") == 0) load(engine, folder, 0, 7);
  if (strcmp(what, "own") == 0) load(engine, folder, rank, rank);
  for (int step = first; step < last; step++) {
    unsigned int random = 1 + 1000u * (unsigned int)step + (unsigned int)rank;
    for (int i = 0; i < COUNT; i++) {
      random = random * 1664525u + 1013904223u;
      gradient[i] = (float)(random >> 8) / (1 << 23) - 1;
    }
    OK(hora_allreduce(engine, gradient, mean, COUNT, HORA_FLOAT32, HORA_AVERAGE, &onebit));
    printf("step %d %016llx\n", step, digest(mean));
    if (strcmp(what, "save") == 0 && step == first + 5) save(engine, folder);
  }
}

int main(int count, char** words) {
  hora_engine* engine;
  EXPECT(hora_version() == HORA_VERSION);
  EXPECT(strcmp(hora_last_error(), "") == 0);
  EXPECT(count > 1);
  OK(hora_start(0, &engine));
  if (strcmp(words[1], "collectives") == 0) {
    collectives(engine);
    hora_free_engine(engine);
    OK(hora_start(1, &engine));
    collectives(engine);
  }
  if (strcmp(words[1], "mistakes") == 0) mistakes(engine);
  if (strcmp(words[1], "disagree") == 0) disagree(engine);
  if (strcmp(words[1], "steps") == 0)
    steps(engine, atoi(words[2]), atoi(words[3]), count > 5 ? words[4] : "", words[count - 1]);
  OK(hora_shutdown(engine));
  hora_free_engine(engine);
  printf("done\n");
  return 0;
}
