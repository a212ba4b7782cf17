#include "launcher/timeline.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "hora/status.h"
#include "launcher/command_line.h"
#include "launcher/trace.h"

namespace hora {
namespace {

std::string path_of(const std::string& first, int rank) {
  std::filesystem::path path(first);
  const std::string extension = path.extension();
  path.replace_extension();
  return fmt::format("{}.{}{}", path.string(), rank, extension);
}

/// One file of each rank; of rank 0's alone, the others are looked for beside it.
Result<std::vector<Trace>> read_all(std::vector<std::string> paths) {
  std::vector<Trace> traces;
  for (size_t i = 0; i < paths.size(); ++i) {
    auto trace = read_trace(paths[i]);
    if (!trace.ok()) return trace.status();
    traces.push_back(std::move(trace).value());
    if (paths.size() == 1 && traces[0].rank == 0)
      for (int rank = 1; rank < traces[0].size; ++rank)
        if (const std::string path = path_of(paths[0], rank); std::filesystem::exists(path))
          paths.push_back(path);
  }
  HORA_TRY(align(traces));
  if (const auto size = static_cast<size_t>(traces[0].size); traces.size() < size)
    fmt::print(stderr, "hora timeline: {} of {} ranks have a file here\n", traces.size(), size);
  return traces;
}

Status keep_inputs(const std::vector<Trace>& traces, const std::string& output) {
  std::error_code unlike;
  for (const Trace& trace : traces)
    if (std::filesystem::equivalent(trace.path, output, unlike))
      return Status(
          Code::kInvalidArgument,
          fmt::format("{} is rank {}'s own file: choose another with -o", output, trace.rank));
  return {};
}

Status write(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  if (file) return {};
  return Status(Code::kInvalidArgument, fmt::format("cannot write {}", path));
}

int fail(const Status& status) {
  fmt::print(stderr, "hora timeline: {}\n", status.message());
  return 2;
}

}  // namespace

int timeline_main(std::vector<std::string> arguments) {
  CLI::App app("Timelines that HORA_TIMELINE or hora.start_timeline() wrote.", "hora timeline");
  app.require_subcommand(1);
  std::vector<std::string> files;
  std::string merged = "merged.json", picture;
  size_t tensors = 20;
  CLI::App* const merge =
      app.add_subcommand("merge", "Put the ranks' files into one, with their clocks aligned");
  merge
      ->add_option("files", files, "One file of each rank, or rank 0's if the others are beside it")
      ->required();
  merge->add_option("-o,--output", merged, "Where to write it")->capture_default_str();
  CLI::App* const summary =
      app.add_subcommand("summary", "Say where the time went, and who was late");
  summary
      ->add_option("files", files, "One file of each rank, or rank 0's if the others are beside it")
      ->required();
  summary->add_option("--svg", picture, "Also draw the middle of the run into this file");
  summary->add_option("--tensors", tensors, "How many tensors to list")->capture_default_str();
  if (const auto code = parse_command_line(app, std::move(arguments))) return *code;
  const auto traces = read_all(files);
  if (!traces.ok()) return fail(traces.status());
  Status written;
  if (*merge) {
    written = keep_inputs(traces.value(), merged);
    if (written.ok()) written = write(merged, merged_trace(traces.value()));
  } else {
    fmt::print("{}", trace_summary(traces.value(), tensors));
    if (!picture.empty()) written = write(picture, trace_picture(traces.value()));
  }
  return written.ok() ? 0 : fail(written);
}

}  // namespace hora
