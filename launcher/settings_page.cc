#include "launcher/settings_page.h"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "hora/config.h"

namespace hora {
namespace {

constexpr std::string_view kIntroduction = R"(# Settings

Hora reads its settings from environment variables when it starts. `hora config` shows the values in
force and where each comes from. This page is made by `hora settings --markdown`.

- Sizes: `8388608`, `8 MiB`, `64k`, `1.5G`; units are powers of 1024.
- Times: `10`, `10s`, `500ms`, `50us`, `2 min`, `1h`; without a unit, seconds.
- A name that begins with `HORA_` and is not in the table, or a value that does not fit, is an error.
- An empty variable counts as not set.

| variable | default | values | meaning |
|---|---|---|---|
)";

constexpr std::string_view kAliases = R"(
## Other names

Variables of Horovod with the same meaning are read where the `HORA_` variable is not set. Numbers
beyond Hora's range become the nearest in it. Variables of Horovod that are not here are ignored.

| Horovod's | Hora's |
|---|---|
)";

constexpr std::string_view kEnd =
    R"(| `HOROVOD_STALL_CHECK_DISABLE` | `HORA_STALL_WARNING=0`, if it is not `0` |

## Which rank is this?

Rank and size come from one source, the first of these that is set:

| launcher | rank and size | the job, for ranks that look for each other |
|---|---|---|
| `horarun` | `HORA_RANK`, `HORA_SIZE` | `HORA_STORE` |
| Horovod's | `HOROVOD_RANK`, `HOROVOD_SIZE` | `HORA_STORE` |
| `torchrun` | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE` | `MASTER_PORT`, `TORCHELASTIC_RUN_ID` |
| `mpirun` of Open MPI | `OMPI_COMM_WORLD_RANK`, `OMPI_COMM_WORLD_SIZE`, and `_LOCAL_` | `PMIX_NAMESPACE`, or `OMPI_MCA_ess_base_jobid` |
| `mpirun` of MPICH and Intel MPI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` | the parent process |
| `srun` | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID` | `SLURM_JOB_ID`, `SLURM_STEP_ID` |
| none: `python train.py` | rank 0 of 1 | |

`horarun` also sets torchrun's variables. Under the others rank 0 serves the store itself: on one host
at a Unix socket that only processes of the same user can use; for several hosts at a TCP port, where
ranks prove that they know `HORA_SECRET`, which you give all of them. That port is `HORA_STORE`, as
`tcp://HOST:PORT` of rank 0's host, if you give it; under `torchrun` else the one after `MASTER_PORT` at
`MASTER_ADDR`, and under `srun` one that follows from the job's number, on the first node. A second
`init` in the same processes takes the next port. Where more than one rank was started and nothing
tells the job, the start fails with an error that says what to do.

## Which value counts?

A flag of `horarun` or `-x`, else the environment, else `--config-file`, else the default. Every
setting is a flag (`--bucket-bytes 8MiB` for `HORA_BUCKET_BYTES`), and `hora config --origin`, which
takes the same flags, shows where each value comes from and what it was chosen over. A file is flat
TOML or YAML; a section is the beginning of its keys' names:

```toml
bucket_bytes = "16 MiB"
[stall]
warning = "20 s"
```
)";

std::string code_or_nothing(std::string_view text) {
  return text.empty() ? "" : fmt::format("`{}`", text);
}

/// Whoever sets `setting`, the strongest first. With their values where they did not win.
std::vector<std::string> claims(const ConfigSources& sources, const Setting& setting) {
  std::vector<std::string> told;
  const auto tell = [&](const std::string& who, std::string_view value) {
    const bool hidden = std::string_view(setting.type) == "secret";
    told.push_back(told.empty() ? who : fmt::format("{} {}", who, hidden ? "(hidden)" : value));
  };
  const auto look = [&](const std::vector<std::string>& entries, std::string_view name,
                        const std::string& who) {
    if (name.empty()) return;
    for (const std::string& entry : entries)
      if (entry.starts_with(fmt::format("{}=", name)) && entry.size() > name.size() + 1)
        return tell(who, std::string_view(entry).substr(name.size() + 1));
  };
  look(sources.flags, setting.name, "flag " + flag_of(setting));
  look(sources.environment, setting.name, "environment");
  look(sources.environment, setting.alias, setting.alias);
  for (const FileSetting& each : sources.file)
    if (each.variable == setting.name) tell("file " + each.place, each.value);
  return told;
}

}  // namespace

std::string settings_markdown() {
  std::string page(kIntroduction);
  for (const Setting& setting : settings()) {
    const std::string_view range = setting.range;
    page +=
        fmt::format("| `{}` | {} | {} | {} |\n", setting.name, code_or_nothing(setting.standard),
                    range.empty() ? "text" : range, setting.help);
  }
  page += kAliases;
  for (const Setting& setting : settings()) {
    if (std::string_view(setting.alias).empty()) continue;
    page += fmt::format("| `{}` | `{}` |\n", setting.alias, setting.name);
  }
  return page += kEnd;
}

std::string settings_text() {
  std::string page;
  for (const Setting& setting : settings()) {
    const std::string_view range = setting.range, standard = setting.standard;
    page += fmt::format("{} ({}{}{})\n    {}\n", setting.name, range.empty() ? "text" : range,
                        standard.empty() ? "" : "; default ", standard, setting.help);
  }
  return page;
}

ConfigPage config_page(const ConfigSources& sources, bool over) {
  // The first of two entries with one name is the one that counts.
  std::vector<std::string> all = sources.flags;
  all.insert(all.end(), sources.environment.begin(), sources.environment.end());
  std::vector<std::string> origins;
  const Result<Config> config = Config::parse(with_defaults(all, sources.file), &origins);
  if (!config.ok()) return {false, config.status().message() + "\n"};
  std::string page;
  for (size_t i = 0; i < settings().size(); ++i) {
    const Setting& setting = settings()[i];
    std::vector<std::string> told = claims(sources, setting);
    if (told.empty() && origins[i] != "default") told.push_back(origins[i]);
    told.emplace_back("default");
    if (over && told.size() > 1) told.back() += fmt::format(" {}", setting.standard);
    if (!over) told.resize(1);
    const std::string value = value_of(config.value(), setting);
    page += fmt::format("{:<22} {:<12} {}\n", setting.name, value.empty() ? "-" : value,
                        fmt::join(told, ", over "));
  }
  return {true, page};
}

}  // namespace hora
