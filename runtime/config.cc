#include "hora/config.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <variant>

#include <fmt/format.h>

#include "runtime/foreign_job.h"
#include "runtime/quantity.h"

namespace hora {
namespace {

using Member =
    std::variant<int Config::*, uint64_t Config::*, double Config::*, std::string Config::*>;
using Variables = std::map<std::string, std::string, std::less<>>;

enum class Kind { kIdentity, kOwn, kAgreed };  // kAgreed: must be equal on all ranks

struct Row {
  Setting setting;
  Kind kind;
  Member member;
};

constexpr std::string_view kHidden = "(hidden)";
constexpr size_t kIdentities = 6;  // the first rows, rank to cross_size
constexpr size_t kStoreRow = kIdentities;
constexpr Row kTable[] = {
    {{"HORA_RANK", "integer", "0", "0 to 1048575", "This process's number in the job.",
      "HOROVOD_RANK"},
     Kind::kIdentity,
     &Config::rank},
    {{"HORA_SIZE", "integer", "1", "1 to 1048576", "How many processes the job has.",
      "HOROVOD_SIZE"},
     Kind::kIdentity,
     &Config::size},
    {{"HORA_LOCAL_RANK", "integer", "0", "0 to 1048575", "This process's number on its host.",
      "HOROVOD_LOCAL_RANK"},
     Kind::kIdentity,
     &Config::local_rank},
    {{"HORA_LOCAL_SIZE", "integer", "1", "1 to 1048576", "How many processes this host has.",
      "HOROVOD_LOCAL_SIZE"},
     Kind::kIdentity,
     &Config::local_size},
    {{"HORA_CROSS_RANK", "integer", "0", "0 to 1048575", "This host's number in the job.",
      "HOROVOD_CROSS_RANK"},
     Kind::kIdentity,
     &Config::cross_rank},
    {{"HORA_CROSS_SIZE", "integer", "1", "1 to 1048576", "How many hosts the job has.",
      "HOROVOD_CROSS_SIZE"},
     Kind::kIdentity,
     &Config::cross_size},
    {{"HORA_STORE", "text", "", "",
      "Where the ranks find each other, unix:/path or tcp://host:port; horarun sets it. Empty: "
      "alone.",
      ""},
     Kind::kOwn,
     &Config::store},
    {{"HORA_SECRET", "secret", "", "64 hexadecimal digits",
      "What proves to ranks of other hosts that this one belongs to the job; horarun makes it. It "
      "is never shown.",
      ""},
     Kind::kOwn,
     &Config::secret},
    {{"HORA_JOB", "text", "", "", "Names the job in logs and sockets; horarun makes one up.", ""},
     Kind::kAgreed,
     &Config::job},
    {{"HORA_WORKER", "integer", "0", "0 to 1048576",
      "In an elastic job, this process's number; its rank may change. horarun sets it.", ""},
     Kind::kOwn,
     &Config::worker},
    {{"HORA_BACKEND", "choice", "auto", "auto, shm, tcp, gloo",
      "How bytes move between ranks; auto takes the fastest that reaches all.",
      "HOROVOD_CPU_OPERATIONS"},
     Kind::kAgreed,
     &Config::backend},
    {{"HORA_ADDRESS", "text", "", "",
      "Addresses that other hosts reach this rank at, with commas between. Empty: all of this "
      "machine's.",
      ""},
     Kind::kOwn,
     &Config::address},
    {{"HORA_TCP_STREAMS", "integer", "4", "1 to 8",
      "Connections to each rank of another host and lane that share a large transfer.", ""},
     Kind::kAgreed,
     &Config::tcp_streams},
    {{"HORA_TCP_BUFFER_BYTES", "bytes", "1 MiB", "64 KiB to 32 MiB",
      "What the system may buffer for each connection between hosts, in each direction; between "
      "hosts less than 2 ms apart, a lane's connections share it, or 20 ms of the link's rate if "
      "that is less.",
      ""},
     Kind::kOwn,
     &Config::tcp_buffer_bytes},
    {{"HORA_TLS", "integer", "0", "0 to 1",
      "1: what travels between hosts is encrypted (TLS 1.3). Not with HORA_BACKEND=gloo.", ""},
     Kind::kAgreed,
     &Config::tls},
    {{"HORA_HIERARCHICAL", "integer", "1", "0 to 1",
      "1: where hosts have several ranks, what all of them need or add up goes through each host "
      "first, so that a byte crosses once for the host. 0: every rank with every other.",
      "HOROVOD_HIERARCHICAL_ALLREDUCE"},
     Kind::kAgreed,
     &Config::hierarchical},
    {{"HORA_LINKS", "link", "measure", "measure, none, or a rate and one-way delay",
      "How fast the slowest link between two hosts is, such as 1Gbit,20ms; measure: found out at "
      "start, in 0.2 s at most; none: taken for a network within a building. It decides which way "
      "operations go, and in how many pieces.",
      ""},
     Kind::kAgreed,
     &Config::links},
    {{"HORA_TREE_ARITY", "integer", "8", "2 to 64",
      "How many hosts report to one in the control tree.", ""},
     Kind::kAgreed,
     &Config::tree_arity},
    {{"HORA_COMPRESSION", "text", "none", "",
      "The chain for gradients that name none of their own; none sends values as they are.", ""},
     Kind::kAgreed,
     &Config::compression},
    {{"HORA_CODEC_SPEEDS", "text", "measure", "",
      "For the compression auto, how fast this rank's core encodes and decodes; ranks agree on the "
      "slowest. measure: found out at start, in 30 ms; usual: a usual server's; or nanoseconds for "
      "each element to encode, decode and settle, such as bf16=0.3/0.1/0.2,onebit=0.3/0.2/0.2, as "
      "rank 0 logs them.",
      ""},
     Kind::kOwn,
     &Config::codec_speeds},
    {{"HORA_BUCKET_BYTES", "bytes", "8 MiB", "4 KiB to 1 GiB",
      "Tensors travel together up to this many bytes.", "HOROVOD_FUSION_THRESHOLD"},
     Kind::kAgreed,
     &Config::bucket_bytes},
    {{"HORA_EXPRESS_BYTES", "bytes", "64 KiB", "0 to 16 MiB",
      "Tensors up to this size take the express lane, past large transfers.", ""},
     Kind::kAgreed,
     &Config::express_bytes},
    {{"HORA_CARRY_BYTES", "bytes", "4 KiB", "0 to 1 MiB",
      "Between hosts, values that need at most this for all ranks together travel inside of the "
      "control messages, in one trip; 0: none do.",
      ""},
     Kind::kAgreed,
     &Config::carry_bytes},
    {{"HORA_WINDOW_BYTES", "bytes", "32 MiB", "4 KiB to 16 GiB",
      "Bytes under way at most; what is ready beyond that waits and is fused.", ""},
     Kind::kAgreed,
     &Config::window_bytes},
    {{"HORA_LANES", "integer", "3", "1 to 16",
      "Operations that may run at once; lane 0 is the express lane, large ones take turns on the "
      "rest.",
      ""},
     Kind::kAgreed,
     &Config::lanes},
    {{"HORA_CACHE_CAPACITY", "integer", "65536", "1 to 16777216",
      "Tensor names that need one bit to announce again.", "HOROVOD_CACHE_CAPACITY"},
     Kind::kAgreed,
     &Config::cache_capacity},
    {{"HORA_ARENA_BYTES", "bytes", "64 GiB", "1 MiB to 16 TiB",
      "Limit of the memory that peers can reach; addresses, taken only when used.", ""},
     Kind::kOwn,
     &Config::arena_bytes},
    {{"HORA_START_TIMEOUT", "seconds", "30 s", "1 s to 24 h",
      "How long to wait for the other ranks at start.", "HOROVOD_START_TIMEOUT"},
     Kind::kOwn,
     &Config::start_timeout},
    {{"HORA_FAILURE_TIMEOUT", "seconds", "10 s", "100 ms to 24 h",
      "A rank silent for this long is lost.", "HOROVOD_GLOO_TIMEOUT_SECONDS"},
     Kind::kAgreed,
     &Config::failure_timeout},
    {{"HORA_ELASTIC_TIMEOUT", "seconds", "600 s", "1 s to 24 h",
      "How long an elastic job waits for enough ranks before it gives up.",
      "HOROVOD_ELASTIC_TIMEOUT"},
     Kind::kOwn,
     &Config::elastic_timeout},
    {{"HORA_STALL_WARNING", "seconds", "60 s", "0 to 24 h",
      "Warn and name the late ranks when a tensor has waited this long; 0: never.",
      "HOROVOD_STALL_CHECK_TIME_SECONDS"},
     Kind::kOwn,
     &Config::stall_warning},
    {{"HORA_STALL_ABORT", "seconds", "0", "0 to 24 h",
      "End the job when a tensor has waited this long; 0: never.",
      "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"},
     Kind::kOwn,
     &Config::stall_abort},
    {{"HORA_SPIN", "seconds", "50 us", "0 to 1 s",
      "How long a wait yields the processor before it sleeps.", ""},
     Kind::kOwn,
     &Config::spin},
    {{"HORA_SEED", "integer", "0", "0 to 18446744073709551615",
      "Seed of all random choices of compression.", ""},
     Kind::kAgreed,
     &Config::seed},
    {{"HORA_ISA", "choice", "auto", "auto, base, avx2, avx512",
      "Instruction set of the kernels; the results are equal.", ""},
     Kind::kOwn,
     &Config::isa},
    {{"HORA_TIMELINE", "text", "", "",
      "Where to write what happens to every tensor, a Chrome trace for each rank. Empty: nowhere.",
      "HOROVOD_TIMELINE"},
     Kind::kOwn,
     &Config::timeline},
    {{"HORA_TIMELINE_BYTES", "bytes", "64 MiB", "64 KiB to 1 TiB",
      "A rank's timeline ends when its file has this size.", ""},
     Kind::kOwn,
     &Config::timeline_bytes},
    {{"HORA_FLIGHT_DIR", "text", "", "",
      "Folder for each rank's last operations, for `hora explain`: written on failure, stall and "
      "shutdown. Empty: never; horarun then uses a folder of its own.",
      ""},
     Kind::kOwn,
     &Config::flight_dir},
    {{"HORA_LOG_LEVEL", "choice", "warning", "trace, debug, info, warning, error, off",
      "The least important messages to print.", "HOROVOD_LOG_LEVEL"},
     Kind::kOwn,
     &Config::log_level},
};
constexpr size_t kRows = std::size(kTable);

constexpr auto kSettings = [] {
  std::array<Setting, kRows> rows{};
  for (size_t i = 0; i < kRows; ++i) rows[i] = kTable[i].setting;
  return rows;
}();

const Row& row_of(std::string_view name) {
  for (const Row& row : kTable)
    if (row.setting.name == name) return row;
  HORA_CHECK(false, std::string(name) + " is not in the table");
  return kTable[0];
}

/// A row's range "A to B" read by `parse`; a row of numbers always has one.
template <class Number>
std::pair<Number, Number> bounds_of(const Row& row,
                                    std::optional<Number> (*parse)(std::string_view)) {
  const std::string_view range = row.setting.range;
  const size_t to = range.find(" to ");
  HORA_CHECK(to != range.npos, row.setting.name);
  const auto low = parse(range.substr(0, to)), high = parse(range.substr(to + 4));
  HORA_CHECK(low && high, row.setting.name);
  return {*low, *high};
}

template <class Number>
std::optional<Number> within(const Row& row, std::string_view text, bool clamp,
                             std::optional<Number> (*parse)(std::string_view)) {
  const auto number = parse(text);
  if (!number) return {};
  const auto [low, high] = bounds_of(row, parse);
  if (clamp) return std::clamp(*number, low, high);
  return *number >= low && *number <= high ? number : std::nullopt;
}

bool is_choice(const Row& row, std::string_view text) {
  std::string_view range = row.setting.range;
  while (!range.empty()) {
    const size_t comma = std::min(range.find(", "), range.size());
    if (text == range.substr(0, comma)) return true;
    range.remove_prefix(std::min(comma + 2, range.size()));
  }
  return false;
}

std::string expected(const Row& row) {
  const Setting& setting = row.setting;
  const std::string_view type = setting.type;
  if (type == "integer") return fmt::format("an integer from {}", setting.range);
  if (type == "bytes") return fmt::format("a size from {}, such as {}", setting.range, "8 MiB");
  if (type == "secret") return std::string(setting.range);
  if (type == "seconds")
    return fmt::format("a time from {}, such as 10 s or 500 ms", setting.range);
  if (type == "link") return fmt::format("{}, such as 1Gbit,20ms", setting.range);
  return fmt::format("one of {}", setting.range);
}

/// What was probably meant, as the end of a message; empty: nobody knows.
std::string suggestion(const Row& row, std::string_view text) {
  if (std::string_view(row.setting.type) != "link") return "";
  static constexpr std::string_view kWords[] = {"measure", "none"};
  const std::string_view meant = nearest(text, kWords);
  return meant.empty() ? "" : fmt::format("; did you mean {}?", meant);
}

bool is_secret(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdefABCDEF";
  return text.empty() || (text.size() == 64 && text.find_first_not_of(kDigits) == text.npos);
}

/// What a message may show of a row's value.
std::string_view shown(const Row& row, std::string_view text) {
  return std::string_view(row.setting.type) == "secret" ? kHidden : text;
}

/// Puts `text` into `config`. `clamp`: a number beyond the range becomes the nearest in it.
bool assign(Config& config, const Row& row, std::string_view text, bool clamp = false) {
  const std::string_view type = row.setting.type;
  if (const auto* member = std::get_if<std::string Config::*>(&row.member)) {
    if (type == "choice" && !is_choice(row, text)) return false;
    if (type == "secret" && !is_secret(text)) return false;
    if (type == "link" && text != "measure" && text != "none" && !parse_link(text)) return false;
    config.** member = text;
    return true;
  }
  if (const auto* member = std::get_if<double Config::*>(&row.member)) {
    const auto seconds = within<double>(row, text, clamp, parse_seconds);
    if (seconds) config.** member = *seconds;
    return seconds.has_value();
  }
  const auto number =
      within<uint64_t>(row, text, clamp, type == "bytes" ? parse_bytes : parse_integer);
  if (!number) return false;
  if (const auto* member = std::get_if<uint64_t Config::*>(&row.member))
    config.** member = *number;
  else
    config.*std::get<int Config::*>(row.member) = static_cast<int>(*number);
  return true;
}

/// Collects what the environment says; every mistake is a line.
class Reader {
 public:
  Reader(std::span<const std::string> environment, int parent) : parent_(parent) {
    for (const std::string& entry : environment) {
      const size_t equals = entry.find('=');
      // The first of two entries with one name is the one that getenv() sees.
      if (equals != entry.npos)
        variables_.try_emplace(entry.substr(0, equals), entry.substr(equals + 1));
    }
  }

  Result<Config> read(std::vector<std::string>* origins) {
    refuse_unknown_names();
    read_identity();
    for (size_t i = kIdentities; i < kRows; ++i) read_row(kTable[i]);
    if (given("HOROVOD_STALL_CHECK_DISABLE") && !given("HORA_STALL_WARNING")) read_stall_switch();
    if (mistakes_.empty()) check_identity();
    if (!mistakes_.empty())
      return Status(Code::kInvalidArgument, fmt::format("{}", fmt::join(mistakes_, "\n")));
    if (origins) origins->assign(origins_.begin(), origins_.end());
    return config_;
  }

 private:
  // An empty variable is as good as none: shells cannot easily unset one for a single command.
  const std::string* given(std::string_view name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() || found->second.empty() ? nullptr : &found->second;
  }

  void refuse_unknown_names() {
    std::vector<std::string_view> names;
    for (const Setting& setting : kSettings) names.push_back(setting.name);
    for (const auto& [name, value] : variables_) {
      if (!name.starts_with("HORA_")) continue;
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      const std::string_view meant = nearest(name, names);
      mistakes_.push_back(fmt::format("{}: no such setting; {}", name,
                                      meant.empty() ? "`hora settings` lists them all"
                                                    : fmt::format("did you mean {}?", meant)));
    }
  }

  void take(const Row& row, std::string_view variable, std::string_view text, bool clamp) {
    if (assign(config_, row, text, clamp))
      origins_[static_cast<size_t>(&row - kTable)] = variable;
    else
      mistakes_.push_back(fmt::format("{}={}: expected {}{}", variable, shown(row, text),
                                      expected(row), suggestion(row, text)));
  }

  void read_row(const Row& row) {
    const std::string_view alias = row.setting.alias;
    if (const std::string* text = given(row.setting.name))
      take(row, row.setting.name, *text, false);
    else if (const std::string* text_of_alias = alias.empty() ? nullptr : given(alias))
      take_alias(row, *text_of_alias);
  }

  // Horovod's values where they differ from ours. Its numbers are about another engine (a fusion
  // threshold of 0 means one tensor at a time), so the nearest value in our range will do.
  void take_alias(const Row& row, const std::string& text) {
    std::string ours = text;
    if (std::string_view(row.setting.type) == "choice") {
      for (char& c : ours)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
      if (ours == "fatal") ours = "error";
    }
    if (assign(config_, row, ours, true))
      origins_[static_cast<size_t>(&row - kTable)] = row.setting.alias;
    else
      mistakes_.push_back(fmt::format("{}={}: it is read as {}: expected {}", row.setting.alias,
                                      text, row.setting.name, expected(row)));
  }

  void read_stall_switch() {
    const std::string& text = *given("HOROVOD_STALL_CHECK_DISABLE");
    if (text == "0") return;
    take(row_of("HORA_STALL_WARNING"), "HOROVOD_STALL_CHECK_DISABLE", "0", false);
  }

  // Rank and size come from one source as a whole: a rank of one launcher with the size of another
  // would be a job that nobody started.
  void read_identity() {
    using Names = std::array<std::string_view, kIdentities>;
    Names ours, horovod;
    for (size_t i = 0; i < kIdentities; ++i) {
      ours[i] = kTable[i].setting.name;
      horovod[i] = kTable[i].setting.alias;
    }
    Config unused;  // a value that does not fit is an error even where its source is not taken
    if (!given(ours[1]) && !given(ours[0])) {
      for (size_t i = 2; i < kIdentities; ++i) {
        const std::string* const text = given(ours[i]);
        if (text && !assign(unused, kTable[i], *text))
          mistakes_.push_back(
              fmt::format("{}={}: expected {}", ours[i], *text, expected(kTable[i])));
      }
    }
    const Names torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "", ""};
    const Names open_mpi = {"OMPI_COMM_WORLD_RANK",
                            "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK",
                            "OMPI_COMM_WORLD_LOCAL_SIZE",
                            "",
                            ""};
    const Names pmi = {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "", ""};
    // SLURM_NTASKS is also set where no srun started anything: in batch scripts, and for salloc.
    const Names srun = {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", "", ""};
    for (const Names& names : {ours, horovod, torchrun, open_mpi, pmi, srun}) {
      if (!given(names[1]) && !(names == ours && given(names[0]))) continue;
      for (size_t i = 0; i < kIdentities; ++i) {
        if (const std::string* text = names[i].empty() ? nullptr : given(names[i]))
          take(kTable[i], names[i], *text, false);
      }
      if (config_.size > 1 && !given(names[0]))
        mistakes_.push_back(fmt::format("{}={} without {}: which rank is this process?", names[1],
                                        config_.size, names[0]));
      const bool local = given(names[2]) && given(names[3]);
      if (names == srun)
        place_by_slurm();
      else if (!local)
        one_host();
      if (names != srun && (names[4].empty() || !given(names[4]) || !given(names[5])))
        equal_hosts();
      if (names != ours && names != horovod) find_job();
      return;
    }
  }

  // Ranks that another launcher started find each other without a store of ours.
  void find_job() {
    if (config_.size < 2 || !mistakes_.empty()) return;
    const auto lookup = [this](std::string_view name) { return given(name); };
    const auto found = find_foreign_job(lookup, config_.cross_size > 1, parent_);
    if (!found.ok()) {
      mistakes_.push_back(
          fmt::format("{}={}{}: {}", origins_[1], config_.size,
                      config_.cross_size > 1 ? fmt::format(" on {} hosts", config_.cross_size) : "",
                      found.status().message()));
      return;
    }
    if (found.value().store.empty()) return;
    config_.serves_store = true;
    config_.store = found.value().store;
    config_.job = found.value().job;
    origins_[kStoreRow] = found.value().origin;
  }

  // Of a step of several nodes, which are told one by one.
  void place_by_slurm() {
    const SlurmHosts hosts =
        find_slurm_hosts([this](std::string_view name) { return given(name); });
    config_.cross_size = hosts.count;
    config_.cross_rank = std::min(hosts.mine, hosts.count - 1);
    if (hosts.count == 1) return one_host();
    const int even = (config_.size + hosts.count - 1) / hosts.count;
    config_.local_size = hosts.tasks.empty() ? std::max(even, config_.local_rank + 1)
                                             : hosts.tasks[static_cast<size_t>(config_.cross_rank)];
  }

  void one_host() {
    config_.local_rank = config_.rank;
    config_.local_size = config_.size;
  }

  void equal_hosts() {
    config_.cross_rank = config_.rank / config_.local_size;
    config_.cross_size = (config_.size + config_.local_size - 1) / config_.local_size;
  }

  // `row` and the next one are a rank and its size.
  void check_below(size_t row, int rank, int limit) {
    if (rank < limit) return;
    const auto name = [&](size_t i) {
      return origins_[i] == "default" ? std::string_view(kTable[i].setting.name) : origins_[i];
    };
    mistakes_.push_back(fmt::format("{}={}: expected less than {}, which is {}", name(row), rank,
                                    name(row + 1), limit));
  }

  void check_identity() {
    check_below(0, config_.rank, config_.size);
    check_below(2, config_.local_rank, config_.local_size);
    check_below(4, config_.cross_rank, config_.cross_size);
    if (config_.size > 1 && config_.store.empty())
      mistakes_.push_back(fmt::format(
          "{}={} but HORA_STORE is not set: the ranks cannot find each other; start the program "
          "with `horarun -np {} program`",
          origins_[1], config_.size, config_.size));
  }

  const int parent_;  // 0: unknown
  Variables variables_;
  Config config_;
  std::array<std::string, kRows> origins_ = [] {
    std::array<std::string, kRows> origins;
    origins.fill("default");
    return origins;
  }();
  std::vector<std::string> mistakes_;
};

}  // namespace

Config::Config() {
  for (const Row& row : kTable)
    HORA_CHECK(assign(*this, row, row.setting.standard), row.setting.name);
}

Result<Config> Config::parse(std::span<const std::string> environment,
                             std::vector<std::string>* origins) {
  return Reader(environment, 0).read(origins);
}

Result<Config> Config::from_environment() {
  return Reader(environment(), ::getppid()).read(nullptr);
}

std::span<const Setting> settings() {
  return kSettings;
}

std::string value_of(const Config& config, const Setting& setting) {
  const Row& row = row_of(setting.name);
  if (const auto* text = std::get_if<std::string Config::*>(&row.member))
    return config.**text == setting.standard ? setting.standard
                                             : std::string(shown(row, config.**text));
  if (const auto* time = std::get_if<double Config::*>(&row.member))
    return format_seconds(config.**time);
  if (const auto* whole = std::get_if<int Config::*>(&row.member))
    return fmt::format("{}", config.**whole);
  const uint64_t number = config.*std::get<uint64_t Config::*>(row.member);
  return std::string_view(setting.type) == "bytes" ? format_bytes(number)
                                                   : fmt::format("{}", number);
}

std::string digest_text(const Config& config) {
  std::string text;
  for (const Row& row : kTable) {
    const bool agreed =
        row.kind == Kind::kAgreed || std::string_view(row.setting.name) == "HORA_SIZE";
    if (agreed) text += fmt::format("{}={}\n", row.setting.name, value_of(config, row.setting));
  }
  return text;
}

std::vector<std::string> environment() {
  std::vector<std::string> variables;
  for (char** entry = ::environ; entry && *entry; ++entry) variables.emplace_back(*entry);
  return variables;
}

}  // namespace hora
