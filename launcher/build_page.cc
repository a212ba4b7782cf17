#include "launcher/build_page.h"

#include <fmt/format.h>

#include "launcher/doctor.h"

namespace hora {
namespace {

std::string row(std::string_view name, bool built, std::string_view note = {}) {
  return fmt::format("    [{}] {}{}{}\n", built ? 'X' : ' ', name, note.empty() ? "" : ": ", note);
}

std::string plugin_row(std::string_view name, const std::string& file) {
  return row(name, plugin_line(file).starts_with("yes"));
}

}  // namespace

std::string build_page() {
  std::string page = fmt::format("Hora v{}:\n\nAvailable Frameworks:\n", HORA_VERSION);
  page += row("PyTorch", true);
  for (const char* name : {"TensorFlow", "JAX", "Keras"}) page += row(name, false);
  page += "\nAvailable Controllers:\n" + row("Hora", true, "over shared memory, needs no MPI");
  page += "\nAvailable Tensor Operations:\n" + row("shm", true);
  page += plugin_row("Gloo", "libhora_gloo.so") + plugin_row("MPI", "libhora_mpi.so") +
          plugin_row("NCCL", "libhora_nccl.so") + plugin_row("CUDA", "libhora_cuda.so");
  return page;
}

}  // namespace hora
