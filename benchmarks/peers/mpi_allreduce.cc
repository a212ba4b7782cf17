// MPI's blocking allreduce at the sizes of `collectives`, in the same JSON.
//   mpicxx -O2 -o mpi_allreduce mpi_allreduce.cc
//   mpirun --bind-to none -np 2 ./mpi_allreduce 4 67108864 4 report.json
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

double quantile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)];
}

/// The slowest rank's microseconds.
double slowest(double seconds) {
  double mine = seconds * 1e6, worst = 0;
  MPI_Allreduce(&mine, &worst, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s least most factor [json]\n", argv[0]);
    MPI_Abort(MPI_COMM_WORLD, 2);
  }
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const double least = std::atof(argv[1]), most = std::atof(argv[2]), factor = std::atof(argv[3]);
  std::FILE* const file = rank == 0 && argc > 4 ? std::fopen(argv[4], "w") : nullptr;
  std::vector<float> values(static_cast<size_t>(most) / sizeof(float) + 1);
  if (file) std::fprintf(file, "{\"ranks\": %d, \"rows\": [", size);
  const char* separator = "";
  for (double bytes = least; bytes <= most; bytes *= factor) {
    const auto count = static_cast<int>(bytes / sizeof(float));
    const int iterations = static_cast<int>(std::clamp(268435456.0 / bytes, 20.0, 2000.0));
    std::vector<double> samples;
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = 0;
    for (int i = -5; i < iterations; ++i) {
      if (i == 0) begin = MPI_Wtime();
      MPI_Allreduce(MPI_IN_PLACE, values.data(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      if (i < 0) continue;
      const double end = MPI_Wtime();
      samples.push_back(end - begin);
      begin = end;
    }
    const double median = slowest(quantile(samples, 0.5)), p10 = slowest(quantile(samples, 0.1));
    if (rank == 0) std::printf("%12.0f %11.2f %11.2f\n", bytes, median, p10);
    if (file)
      std::fprintf(file, "%s\n{\"size\": %.0f, \"time_us\": %.3f, \"p10_us\": %.3f}", separator,
                   bytes, median, p10);
    separator = ",";
  }
  if (file) {
    std::fprintf(file, "\n]}\n");
    std::fclose(file);
  }
  MPI_Finalize();
}
