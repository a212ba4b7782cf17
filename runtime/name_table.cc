#include "runtime/name_table.h"

#include <utility>

#include <fmt/format.h>

#include "runtime/operation.h"

namespace hora {

Name* NameTable::intern(SetId set, std::string_view text) {
  if (const auto found = names_.find(Key{set, text}); found != names_.end())
    return found->second.get();
  auto name = std::make_unique<Name>();
  name->set = set;
  name->number = static_cast<uint32_t>(names_.size());
  name->text = text;
  Name* const made = name.get();
  names_.emplace(Key{set, made->text}, std::move(name));
  return made;
}

Status NameTable::begin(Operation& operation) {
  const std::string& text = operation.request.name;
  const std::lock_guard lock(mutex_);
  Name* name = intern(operation.request.set, text);
  if (name->in_flight)
    return Status(
        Code::kInvalidArgument,
        fmt::format("'{}' was submitted and has not ended: give every operation in flight "
                    "its own name, or wait for the first",
                    text));
  name->in_flight = true;
  operation.name = name;
  operation.submission.name = text;
  return {};
}

bool NameTable::begin_unnamed(Operation& operation) {
  const Request& request = operation.request;
  const std::lock_guard lock(mutex_);
  uint32_t& next = unnamed_[uint64_t{request.set} << 8 | static_cast<uint64_t>(request.op)];
  char text[48];
  const auto end = fmt::format_to_n(text, sizeof(text), "{}.unnamed.{}", name_of(request.op),
                                    next++ % unnamed_count_);
  Name* name = intern(request.set, std::string_view(text, end.size));
  operation.name = name;
  operation.submission.name = name->text;
  if (!std::exchange(name->in_flight, true)) return true;
  name->waiting.push_back(&operation);
  return false;
}

Operation* NameTable::end(Name* name) {
  const std::lock_guard lock(mutex_);
  if (name->waiting.empty()) {
    name->in_flight = false;
    return nullptr;
  }
  Operation* next = name->waiting.front();
  name->waiting.pop_front();
  return next;
}

}  // namespace hora
