#include "runtime/timeline_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "compressors/chain.h"
#include "runtime/name_table.h"

namespace hora {
namespace {

constexpr std::string_view kEnd = "\n]\n";
constexpr uint32_t kFirstLane = 1, kWaits = 90, kRanges = 91, kFirstTensor = 100;  // tracks

/// Room for the last line, which says that the file is full.
constexpr uint64_t kReserve = 512;

/// Appends to one line whose length is known to be bounded: the writer's thread shares a core with
/// somebody's training, so it must not take long.
class Line {
 public:
  Line(std::string& text, size_t at_most) : text_(text), begin_(text.size()) {
    text_.resize(begin_ + at_most);
    at_ = text_.data() + begin_;
  }
  ~Line() { text_.resize(static_cast<size_t>(at_ - text_.data())); }

  Line& operator<<(std::string_view words) {
    std::memcpy(at_, words.data(), words.size());
    at_ += words.size();
    return *this;
  }
  Line& operator<<(uint64_t number) {
    at_ = std::to_chars(at_, at_ + 20, number).ptr;
    return *this;
  }
  /// Nanoseconds, as microseconds with three decimals.
  Line& operator<<(int64_t nanoseconds) {
    const auto whole = static_cast<uint64_t>(std::max<int64_t>(nanoseconds, 0));
    *this << whole / 1000;
    const auto rest = static_cast<unsigned>(whole % 1000);
    *at_++ = '.';
    *at_++ = static_cast<char>('0' + rest / 100);
    *at_++ = static_cast<char>('0' + rest / 10 % 10);
    *at_++ = static_cast<char>('0' + rest % 10);
    return *this;
  }

 private:
  std::string& text_;
  const size_t begin_;
  char* at_;
};

/// Appends text as JSON text. Names are the user's and may hold anything.
void append_json(std::string& result, std::string_view text) {
  result += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      (result += '\\') += c;
    else if (byte < 0x20)
      fmt::format_to(std::back_inserter(result), "\\u{:04x}", byte);
    else
      result += c;
  }
  result += '"';
}

std::string as_json(std::string_view text) {
  std::string result;
  append_json(result, text);
  return result;
}

Status unwritable(Code code, const char* what, int error) {
  return Status(code, fmt::format("timeline: {}: {}", what, std::strerror(error)));
}

}  // namespace

Result<std::unique_ptr<TimelineFile>> TimelineFile::create(const std::string& path,
                                                           const Origin& origin, uint64_t bound) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file.valid())
    return unwritable(Code::kInvalidArgument, fmt::format("cannot write {}", path).c_str(), errno);
  auto made = std::unique_ptr<TimelineFile>(new TimelineFile(std::move(file), origin, bound));
  made->introduce_rank();
  HORA_TRY(made->flush());
  return made;
}

TimelineFile::TimelineFile(Descriptor file, const Origin& origin, uint64_t bound)
    : file_(std::move(file)), origin_(origin), bound_(bound) {}

void TimelineFile::introduce_rank() {
  const Origin& o = origin_;
  lines_ = "[\n";
  fmt::format_to(std::back_inserter(lines_),
                 R"({{"ph":"M","pid":{},"tid":0,"name":"hora_clock","args":{{"version":1,)"
                 R"("job":{},"epoch":{},"rank":{},"size":{},"host":{},"backend":{},"base_ns":{},)"
                 R"("unix_ns":{}}}}})",
                 o.rank, as_json(o.job), o.epoch, o.rank, o.size, as_json(o.host),
                 as_json(o.backend), o.now, o.unix_ns);
  fmt::format_to(std::back_inserter(lines_),
                 ",\n"
                 R"({{"ph":"M","pid":{},"tid":0,"name":"process_name","args":{{"name":{}}}}})",
                 o.rank, as_json(fmt::format("rank {} of {} on {}", o.rank, o.size, o.host)));
  for (int lane = 0; lane < o.lanes; ++lane)
    introduce_track(kFirstLane + static_cast<uint32_t>(lane), fmt::format("lane {}", lane), "");
  introduce_track(kWaits, "waits", "");
  introduce_track(kRanges, "program", "");
}

void TimelineFile::introduce_track(uint32_t track, std::string_view name, std::string_view more) {
  const size_t before = lines_.size();
  fmt::format_to(std::back_inserter(lines_),
                 ",\n"
                 R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":{}{}}}}})",
                 origin_.rank, track, as_json(name), more);
  commit(before);
}

void TimelineFile::introduce(Life& life, SetId set) {
  life.introduced = true;
  introduce_track(kFirstTensor + life.name->number, life.name->text,
                  fmt::format(",\"set\":{}", set));
}

TimelineFile::Life* TimelineFile::life_of(const Name& name) {
  if (name.number >= lives_.size()) lives_.resize(std::max<size_t>(name.number + 1, 256));
  Life& life = lives_[name.number];
  life.name = &name;
  return &life;
}

TimelineFile::Bucket& TimelineFile::bucket_of(uint64_t plan) {
  for (size_t i = 0; i < open_buckets_; ++i)
    if (buckets_[i].plan == plan) return buckets_[i];
  if (open_buckets_ == buckets_.size()) buckets_.emplace_back();
  Bucket& bucket = buckets_[open_buckets_++];
  bucket.plan = plan;
  bucket.agreed = bucket.begun = 0;
  bucket.tensors.clear();
  return bucket;
}

void TimelineFile::add(const Moment& moment) {
  if (full_) return;
  switch (moment.what()) {
    case Moment::Kind::kSubmitted:
      return submitted(moment);
    case Moment::Kind::kAgreed:
      return agreed(moment);
    case Moment::Kind::kBegun:
      return begun(moment);
    case Moment::Kind::kEnded:
      return ended(moment);
    case Moment::Kind::kDone:
      return done(moment);
    case Moment::Kind::kWaited:
      return write_range(kWaits, moment.name->text, moment.at, static_cast<int64_t>(moment.plan));
    case Moment::Kind::kRange:
      return write_range(kRanges, *moment.text, moment.at, static_cast<int64_t>(moment.plan));
  }
}

void TimelineFile::submitted(const Moment& moment) {
  Life& life = *life_of(*moment.name);
  if (!life.introduced) introduce(life, static_cast<SetId>(moment.amount));
  life.open = true;
  life.told = false;
  life.op = static_cast<uint8_t>(moment.detail);
  life.plan = 0;
  life.submitted = moment.at;
  life.taken = static_cast<int64_t>(moment.plan);
  life.agreed = life.begun = life.ended = 0;
}

// What was submitted before the timeline began has no life here and is left out.
void TimelineFile::agreed(const Moment& moment) {
  Bucket& bucket = bucket_of(moment.plan);
  bucket.agreed = moment.at;
  Life& life = *life_of(*moment.name);
  if (!life.open) return;
  if (life.plan == 0) {
    life.plan = moment.plan;
    life.agreed = moment.at;
  }
  bucket.tensors.push_back(moment.name->number);
}

void TimelineFile::begun(const Moment& moment) {
  Bucket& bucket = bucket_of(moment.plan);
  bucket.begun = moment.at;
  bucket.lane = static_cast<uint8_t>(moment.detail);
  bucket.op = static_cast<uint8_t>(moment.amount & 0xFF);
  bucket.how = static_cast<uint8_t>(moment.amount >> 8 & 0xFF);
  for (const uint32_t tensor : bucket.tensors)
    if (lives_[tensor].begun == 0) lives_[tensor].begun = moment.at;
}

void TimelineFile::ended(const Moment& moment) {
  Bucket& bucket = bucket_of(moment.plan);
  for (const uint32_t tensor : bucket.tensors) lives_[tensor].ended = moment.at;
  if (bucket.begun != 0) {
    const size_t before = lines_.size();
    {
      Line line(lines_, 512);
      line << R"(,
{"ph":"X","pid":)"
           << static_cast<uint64_t>(origin_.rank) << R"(,"tid":)"
           << uint64_t{kFirstLane} + bucket.lane << R"(,"ts":)" << bucket.begun - origin_.now
           << R"(,"dur":)" << moment.at - bucket.begun << R"(,"name":")"
           << name_of(static_cast<Op>(bucket.op)) << R"(","args":{"plan":)" << bucket.plan
           << R"(,"bytes":)" << uint64_t{moment.amount} << R"(,"tensors":)"
           << uint64_t{bucket.tensors.size()} << R"(,"queued":)"
           << (bucket.agreed == 0 ? int64_t{0} : bucket.begun - bucket.agreed) << R"(,"by":")"
           << std::string_view(origin_.backend).substr(0, 64) << " ";
      line << name_of(static_cast<Aggregation>(bucket.how)) << "\"";
      if (moment.detail != 0)
        line << R"(,"error":")" << name_of(static_cast<Code>(moment.detail)) << "\"";
      line << "}}";
    }
    commit(before);
  }
  std::swap(bucket, buckets_[--open_buckets_]);
}

void TimelineFile::done(const Moment& moment) {
  Life& life = *life_of(*moment.name);
  if (!life.open) return;
  life.open = false;
  const size_t before = lines_.size();
  {
    Line line(lines_, 512);
    line << R"(,
{"ph":"X","pid":)"
         << static_cast<uint64_t>(origin_.rank) << R"(,"tid":)"
         << uint64_t{kFirstTensor} + moment.name->number << R"(,"ts":)"
         << life.submitted - origin_.now << R"(,"dur":)" << moment.at - life.submitted
         << R"(,"name":")" << name_of(static_cast<Op>(life.op)) << R"(","args":{"taken":)"
         << life.taken - life.submitted;
    if (life.plan != 0) {
      line << R"(,"agreed":)" << life.agreed - life.submitted;
      if (life.begun != 0) line << R"(,"begun":)" << life.begun - life.submitted;
      if (life.ended != 0) line << R"(,"moved":)" << life.ended - life.submitted;
      line << R"(,"plan":)" << life.plan;
    }
    if (moment.detail != 0)
      line << R"(,"error":")" << name_of(static_cast<Code>(moment.detail)) << "\"";
    line << "}}";
  }
  commit(before);
}

void TimelineFile::write_range(uint32_t track, std::string_view name, int64_t begin, int64_t end) {
  const size_t before = lines_.size();
  fmt::format_to(std::back_inserter(lines_),
                 ",\n"
                 R"({{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":)",
                 origin_.rank, track, static_cast<double>(begin - origin_.now) * 1e-3,
                 static_cast<double>(end - begin) * 1e-3);
  append_json(lines_, name);
  lines_ += '}';
  commit(before);
}

void TimelineFile::tell_waiting(int64_t now, int64_t longer_than) {
  for (Life& life : lives_) {
    if (full_ || !life.open || life.told || now - life.submitted < longer_than) continue;
    life.told = true;
    const size_t before = lines_.size();
    fmt::format_to(std::back_inserter(lines_),
                   ",\n"
                   R"({{"ph":"i","s":"t","pid":{},"tid":{},"ts":{:.3f},"name":"still {}"}})",
                   origin_.rank, kFirstTensor + life.name->number,
                   static_cast<double>(now - origin_.now) * 1e-3,
                   life.plan == 0    ? "negotiating"
                   : life.begun == 0 ? "queued"
                                     : "moving");
    commit(before);
  }
}

void TimelineFile::tell_dropped(uint64_t count, int64_t now) {
  if (full_) return;
  const size_t before = lines_.size();
  fmt::format_to(std::back_inserter(lines_),
                 ",\n"
                 R"({{"ph":"i","s":"p","pid":{},"tid":0,"ts":{:.3f},"name":"{} moments lost"}})",
                 origin_.rank, static_cast<double>(now - origin_.now) * 1e-3, count);
  commit(before);
}

/// Keeps what was appended after `before`, if the file stays within its bound with it.
void TimelineFile::commit(size_t before) {
  if (full_) return lines_.resize(before);
  if (written_ + lines_.size() + kEnd.size() + kReserve <= bound_) return;
  lines_.resize(before);
  fmt::format_to(std::back_inserter(lines_),
                 ",\n"
                 R"({{"ph":"M","pid":{},"tid":0,"name":"hora_full","args":{{"bound":{}}}}})",
                 origin_.rank, bound_);
  full_ = true;
}

// One write, over the bracket before: at any other moment the file is whole.
Status TimelineFile::flush() {
  if (lines_.empty()) return {};
  const size_t length = lines_.size();
  lines_ += kEnd;
  for (size_t sent = 0; sent < lines_.size();) {
    const ssize_t count = ::pwrite(file_.get(), lines_.data() + sent, lines_.size() - sent,
                                   static_cast<off_t>(written_ + sent));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      full_ = true;
      return unwritable(Code::kUnavailable, "cannot go on writing", errno);
    }
    sent += static_cast<size_t>(count);
  }
  written_ += length;
  lines_.clear();
  return {};
}

}  // namespace hora
