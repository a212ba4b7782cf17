#include "runtime/driver.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include <sys/epoll.h>

#include "runtime/tree.h"

namespace hora {
namespace {

constexpr int64_t kLookEvery = 10'000'000;  ///< ns; how often a busy driver looks for dead peers
constexpr int64_t kLongestSleep = 250'000'000;
constexpr int64_t kShortVisit = 200'000;  ///< ns; after a longer one the thread's nap may be long
constexpr int kPartingTurns = 8;  ///< a waiter takes before it leaves the rest to the thread
constexpr int kEvents = 16;       ///< dead peers looked at together

int64_t nanoseconds(double seconds) {
  return static_cast<int64_t>(seconds * 1e9);
}

/// How long others have to tell why an operation failed here. Whoever closed a connection had a
/// reason, and is to tell it first.
int64_t patience_with(const Status& error, const Config& config) {
  const int64_t whole = nanoseconds(config.failure_timeout);
  return error.code() == Code::kPeerLost ? whole / 5 : whole / 10;
}

Options options_of(const Config& config, const Transport& transport) {
  Options options;
  options.bucket_bytes = config.bucket_bytes;
  options.express_bytes = config.express_bytes;
  options.window_bytes = config.window_bytes;
  const auto& hosts = transport.hosts;
  const bool several = std::ranges::adjacent_find(hosts, std::not_equal_to<>()) != hosts.end();
  if (several) options.carry_bytes = config.carry_bytes;
  options.lanes = static_cast<uint8_t>(config.lanes);
  options.cache_capacity = config.cache_capacity;
  options.failure_timeout = nanoseconds(config.failure_timeout);
  options.leave_timeout = options.failure_timeout * 5 / 4;  // who fell silent is found before
  options.stall_after = config.stall_warning > 0 ? nanoseconds(config.stall_warning) : kNever;
  options.stall_abort = nanoseconds(config.stall_abort);
  if (transport.world.cross_size > 1)
    for (const Member& member : transport.world.members)
      options.where.push_back(fmt::format(" (host {})", member.host));
  return options;
}

/// A codec's own error is the same on every rank (aggregate.h), and the job goes on.
bool is_settled(const Status& status) {
  return status.ok() || status.code() == Code::kInvalidArgument;
}

}  // namespace

Driver::Driver(Transport transport, const Config& config, const Clock& clock, Log log)
    : compression(config,
                  {transport.topology, transport.speeds, config.bucket_bytes, config.carry_bytes},
                  transport.hosts, transport.chosen),
      observer(clock),
      transport_(std::move(transport)),
      config_(config),
      spin_(nanoseconds(config.spin)),
      clock_(clock),
      log_(std::move(log)),
      options_(options_of(config, transport_)),
      watched_(::epoll_create1(EPOLL_CLOEXEC)) {
  const World& world = transport_.world;
  const auto tree = make_tree(transport_.hosts, config.tree_arity);
  negotiator_ = std::make_unique<Negotiator>(tree[static_cast<size_t>(world.rank)], world.size(),
                                             world.epoch, options_, clock_.now());
  const LaneRunner::Context context{negotiator_->cache(),
                                    operations,
                                    *transport_.backend,
                                    compression,
                                    observer,
                                    world.rank,
                                    [this](SetId set) { return negotiator_->members(set); }};
  for (int lane = 0; lane < config.lanes; ++lane)
    lanes_.push_back(std::make_unique<LaneRunner>(lane, context));
  const auto watch = [this](int descriptor) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = descriptor;
    ::epoll_ctl(watched_, EPOLL_CTL_ADD, descriptor, &event);
  };
  watch(transport_.channel->bell().eventfd());
  if (const int arrivals = transport_.channel->arrivals(); arrivals >= 0) watch(arrivals);
  for (const int descriptor : transport_.channel->watched()) watch(descriptor);
  if (transport_.backend->watched() >= 0) watch(transport_.backend->watched());
  transport_.channel->bell().arm();
  if (const std::string table = compression.decisions(); world.rank == 0 && !table.empty())
    log_.info("HORA_CODEC_SPEEDS={}\n{}", text_of(transport_.speeds), table);
  if (compression.idle() && world.rank == 0)
    log_.info(
        "HORA_COMPRESSION: link=inter compresses what travels between hosts, and all ranks "
        "are on one: nothing is compressed");
}

Driver::~Driver() {
  ::close(watched_);
}

void Driver::forget_in_child() {
  ::close(watched_);
  transport_.channel->forget_in_child();
}

bool Driver::step() {
  const int64_t now = clock_.now();
  observer.at(now);
  bool moved = take_requests();
  moved |= take_frames();
  dirty_ |= moved;
  if (now - looked_at_ > kLookEvery) {
    looked_at_ = now;
    take_lost();
    if (const Status corrupt = transport_.channel->corrupt(); !corrupt.ok() && !closed_) {
      inputs_.lost.push_back({transport_.world.rank, corrupt.message()});
      dirty_ = true;
    }
    if (data_error_ && now - data_error_->since > patience_with(data_error_->status, config_)) {
      inputs_.lost.push_back(
          {transport_.world.rank,
           fmt::format("'{}' failed here: {}", data_error_->what, data_error_->status.message())});
      dirty_ = true;
    }
  }
  if (dirty_ || now >= wake_at_) {
    dirty_ = false;
    for (size_t i = 0; i < arrived_; ++i)
      inputs_.messages.push_back({frames_[i].from, frames_[i].bytes});
    arrived_ = 0;
    negotiator_->step(now, inputs_, outputs_);
    inputs_.clear();
    wake_at_ = outputs_.wake_at;
    deliver();
    moved = true;
  }
  if (!all_sent_) all_sent_ = transport_.channel->flush();
  moved |= run_lanes();
  return moved;
}

bool Driver::take_frames() {
  return transport_.channel->receive([this](Rank from, std::string_view frame) {
    if (arrived_ == frames_.size()) frames_.emplace_back();
    Frame& kept = frames_[arrived_++];
    kept.from = from;
    kept.bytes.assign(frame);
  });
}

bool Driver::take_requests() {
  bool any = false;
  RequestQueue::Command command;
  while (queue.pop(command)) {
    any = true;
    switch (command.kind) {
      case RequestQueue::Kind::kSubmit: {
        Operation& operation = operations.at(command.value);
        const Submission& submission = operation.submission;
        ++open_;
        last_name_.assign(submission.name);
        last_submit_ = operation.submitted_at;
        observer.taken(operation);
        if (operation.request.op == Op::kJoin)
          inputs_.joins.push_back({submission.set, submission.handle});
        else
          request(operation);
        break;
      }
      case RequestQueue::Kind::kPush: {
        const Operation& operation = operations.at(command.value);
        if (!operation.done()) inputs_.waits.push_back(&operation.submission);
        break;
      }
      case RequestQueue::Kind::kFlush:
        inputs_.flushes.push_back(static_cast<uint16_t>(command.value));
        break;
      case RequestQueue::Kind::kLeave:
        inputs_.leave = true;
        if (!ended()) keep_flight_record("shutdown", {});
        break;
    }
  }
  return any;
}

void Driver::request(Operation& operation) {
  Submission& submission = operation.submission;
  if (is_carried(submission.signature, options_, transport_.world.size()))
    pack(operation.request, transport_.world.rank, submission.values);
  inputs_.requests.push_back(&submission);
}

void Driver::take_lost() {
  if (closed_) return;
  epoll_event events[kEvents];
  const int count = ::epoll_wait(watched_, events, kEvents, 0);
  bool any = false;
  for (int i = 0; i < count; ++i) {
    if (events[i].data.fd == transport_.channel->bell().eventfd() ||
        events[i].data.fd == transport_.backend->watched() ||
        events[i].data.fd == transport_.channel->arrivals())
      continue;
    ::epoll_ctl(watched_, EPOLL_CTL_DEL, events[i].data.fd, nullptr);
    any = true;
  }
  if (!any) return;
  auto lost = transport_.channel->lost();
  take_frames();  // what a peer wrote before it went comes first: it may have said good-bye
  for (auto& each : lost) inputs_.lost.push_back({each.rank, std::move(each.cause)});
  dirty_ = true;
}

// Frames first, so that peers go on; then plans to their lanes; then completions, whose owners may
// submit again at once.
void Driver::deliver() {
  for (const auto& send : outputs_.sends) {
    observer.metrics.control_bytes.add(send.bytes.size());
    const Status sent = transport_.channel->send(send.to, send.bytes);
    if (!sent.ok() && !closed_) {
      inputs_.lost.push_back({send.to, sent.message()});
      dirty_ = true;
    }
    all_sent_ = false;
  }
  for (const Plan& plan : outputs_.plans) lanes_[plan.lane]->push(plan);
  if (outputs_.aborted)
    end_epoch(Status(Code::kPeerLost,
                     fmt::format("lost rank {}: {}", outputs_.why.culprit, outputs_.why.cause)));
  for (const auto& result : outputs_.results) finish_carried(result);
  for (const auto& done : outputs_.completions)
    if (Operation* operation = operations.find(done.handle))
      complete(operation, done.status, done.value);
  for (const auto& stall : outputs_.stalls) report(stall);
  for (const auto& ask : outputs_.asks) answer(ask);
  if (outputs_.closed && !closed_) {
    closed_ = true;
    if (health().ok()) {
      const std::lock_guard lock(shared_);
      health_ = Status(Code::kShutdown, "this engine has shut down");
    }
    ended_.store(true, std::memory_order_release);
  }
}

bool Driver::run_lanes() {
  bool moved = false;
  for (const auto& lane : lanes_) {
    if (!lane->idle()) moved |= lane->progress();
    if (!lane->ended().empty()) {
      take_ended(*lane);
      moved = true;
    }
  }
  if (ended() && !swept_ &&
      std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->idle(); }))
    sweep();
  return moved;
}

void Driver::take_ended(LaneRunner& lane) {
  for (auto& ended : lane.ended()) {
    inputs_.finished.push_back(ended.sequence);
    dirty_ = true;
    // Symptoms of one cause: the first is remembered, and all wait for the verdict.
    if (!is_settled(ended.status) && !this->ended() && !data_error_) {
      data_error_ = DataError{ended.status, ended.what, clock_.now(), {}};
      log_.debug("'{}' failed: {}", ended.what, ended.status.message());
    }
    for (Operation* operation : ended.completed) {
      if (is_settled(operation->status))
        complete(operation, operation->status);
      else if (this->ended())
        complete(operation, health());
      else
        data_error_->held.push_back(operation);
    }
  }
  lane.ended().clear();
}

void Driver::end_epoch(const Status& why) {
  {
    const std::lock_guard lock(shared_);
    if (health_.ok()) health_ = why;
  }
  keep_flight_record(why.message(), where_);
  ended_.store(true, std::memory_order_release);
  for (const auto& lane : lanes_) lane->abort(why);
  if (!data_error_) return;
  for (Operation* operation : data_error_->held) complete(operation, why);
  data_error_.reset();
}

void Driver::finish_carried(const Outputs::Result& result) {
  Operation* const operation = operations.find(result.handle);
  if (!operation) return;
  const Submission& submission = operation->submission;
  observer.agreed(*operation, result.seq, submission.values.size());
  const Status status = carried_.write(operation->request, submission.signature,
                                       *negotiator_->members(result.set), result.values);
  if (status.ok()) return complete(operation, status);
  if (!data_error_) data_error_ = DataError{status, submission.name, clock_.now(), {}};
  data_error_->held.push_back(operation);
}

void Driver::complete(Operation* operation, const Status& status, int64_t value) {
  if (operation->done()) return;
  if (operation->request.op == Op::kAddSet || operation->request.op == Op::kJoin)
    operation->outcome.value = value;
  if (operation->request.op == Op::kAddSet && status.ok()) {
    const auto set = static_cast<SetId>(value);
    compression.know_set(set, *negotiator_->members(set));
  }
  operation->status = status;
  observer.done(*operation);
  --open_;
  Operation* next = operation->name ? names.end(operation->name) : nullptr;
  operation->complete();
  if (!next) return;
  ++open_;
  observer.taken(*next);
  request(*next);
  dirty_ = true;
}

// A request some of whose slices have run and whose others never will has nobody else to end it.
void Driver::sweep() {
  swept_ = true;
  for (uint32_t i = 0; i < operations.made(); ++i) {
    Operation& operation = operations.at(i);
    if (operation.handed) complete(&operation, health());
  }
}

bool Driver::finished() const {
  return closed_ && all_sent_ && !dirty_ && queue.empty() &&
         std::all_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->idle(); });
}

void Driver::listen() {
  transport_.channel->bell().arm();
  if (step()) wake();
}

void Driver::leave() {
  for (int turn = 0; turn < kPartingTurns && step(); ++turn) continue;
  const bool short_visit = clock_.now() - entered_at_ < kShortVisit;
  if (!short_visit || open_ > 0) token.poke();
}

void Driver::wake() {
  const Bell bell = transport_.channel->bell();
  bell.arm();
  bell.ring();
  token.poke();
}

bool Driver::sleep(int64_t timeout_ns) const {
  const int64_t bounded = std::clamp<int64_t>(timeout_ns, 0, kLongestSleep);
  epoll_event event;
  return ::epoll_wait(watched_, &event, 1, static_cast<int>((bounded + 999'999) / 1'000'000)) >= 0;
}

void Driver::awake() {
  const Bell bell = transport_.channel->bell();
  bell.disarm();
  bell.drain();
  transport_.backend->look();
  looked_at_ = 0;
}

Status Driver::health() const {
  const std::lock_guard lock(shared_);
  return health_;
}

Result<std::span<std::byte>> Driver::allocate(size_t bytes) {
  constexpr size_t kAlign = 64;
  const std::lock_guard lock(shared_);
  auto arena = transport_.backend->arena(bytes);
  if (!arena.ok() || arena.value().data() != nullptr || bytes == 0) return arena;
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlign, rounded));
  if (!memory) return Status(Code::kOutOfMemory, fmt::format("no memory for {} bytes", bytes));
  std::fill_n(memory, rounded, std::byte{});
  plain_.emplace_back(memory);
  return std::span(memory, bytes);
}

TimelineFile::Origin Driver::origin() const {
  const World& world = transport_.world;
  TimelineFile::Origin origin;
  origin.rank = world.rank;
  origin.size = world.size();
  origin.lanes = config_.lanes;
  origin.host = world.members[static_cast<size_t>(world.rank)].host;
  origin.backend = transport_.backend->name();
  origin.job = config_.job;
  origin.epoch = world.epoch;
  return origin;
}

void Driver::on_stall(std::function<void(const Stall&)> report) {
  const std::lock_guard lock(shared_);
  stall_ = std::move(report);
}

void Driver::on_whereabouts(std::function<std::string()> describe) {
  const std::lock_guard lock(shared_);
  whereabouts_ = std::move(describe);
}

}  // namespace hora
