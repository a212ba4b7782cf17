/* Two ranks average what they have computed, first as it is, then with 1 bit for each number.
 *
 *     cc -std=c99 examples/allreduce.c -o allreduce $(pkg-config --cflags --libs hora) -lm
 *     horarun -np 2 ./allreduce
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <hora/hora.h>

enum { COUNT = 10000, STEPS = 20 };

/* Ends this rank with Hora's words; horarun stops the others. */
static void check(int code) {
  if (code == HORA_OK) return;
  fprintf(stderr, "%s\n", hora_last_error());
  exit(1);
}

/* A made-up gradient: at every step the same one, and another one on every rank. */
static void compute(float* gradient, int rank) {
  for (int i = 0; i < COUNT; i++) gradient[i] = (float)sin(0.1 * i + rank);
}

/* How far `sum` is from `steps` times `mean`, for each element and step. */
static double distance(const float* sum, const float* mean, int steps) {
  double all = 0;
  for (int i = 0; i < COUNT; i++) all += fabs(sum[i] - steps * (double)mean[i]);
  return all / COUNT / steps;
}

int main(void) {
  static float gradient[COUNT], mean[COUNT], got[COUNT], sum[COUNT];

  hora_engine* engine;
  check(hora_start(0, &engine));
  compute(gradient, hora_rank(engine));
  check(hora_allreduce(engine, gradient, mean, COUNT, HORA_FLOAT32, HORA_AVERAGE, NULL));

  const hora_options onebit = {.name = "gradient", .compression = "onebit"};
  for (int step = 1; step <= STEPS; step++) {
    hora_handle handle;
    check(hora_allreduce_async(engine, gradient, got, COUNT, HORA_FLOAT32, HORA_AVERAGE, &onebit,
                               &handle));
    /* Here a program computes what does not need the result. */
    check(hora_wait(engine, handle));
    for (int i = 0; i < COUNT; i++) sum[i] += got[i];
    if (hora_rank(engine) == 0 && (step == 1 || step == STEPS))
      printf("%2d steps: off by %.4f in each\n", step, distance(sum, mean, step));
  }

  check(hora_shutdown(engine));
  hora_free_engine(engine);
  return 0;
}
