#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/codec.h"
#include "compressors/index_code.h"
#include "compressors/memory.h"

namespace hora {

/// A stage's settings, all present: the user's or the standard ones. An accessor that dislikes a
/// value remembers why; the first reason becomes the error of the whole setting.
class Keys {
 public:
  explicit Keys(const std::map<std::string, std::string>& values) : values_(values) {}
  double number(const char* key, double lowest, double highest);
  size_t count(const char* key, size_t lowest, size_t highest);
  std::string_view choice(const char* key, std::initializer_list<std::string_view> allowed);
  std::string_view text(const char* key) const { return values_.at(key); }
  void refuse(std::string why);
  const std::string& refused() const { return refused_; }  ///< empty: nothing was wrong

 private:
  const std::map<std::string, std::string>& values_;
  std::string refused_;
};

/// What a maker builds on: the tensor, the memory if this stage is the chain's outermost (else
/// none), the codec of the stages to its right, which encodes what this stage hands it (null: raw
/// values), and the index code to its right (null: whichever the stage prefers).
struct Binding {
  const Extent& extent;
  Memory memory;
  std::unique_ptr<Codec> inner;
  std::unique_ptr<IndexCode> code;
  uint64_t step = 0;       ///< exchanges of this tensor so far
  uint64_t until = ~0ull;  ///< a stage that warms up: the first exchange that needs a new codec
};

struct StageKey {
  const char* name;
  const char* standard;  ///< used when the setting does not say
  const char* what;      ///< its values and meaning, for people
};

/// A place in a chain; two stages of one place exclude each other.
enum class Order : uint8_t { kPrepare, kMemory, kTransform, kSelect, kQuantize, kIndex };
std::string_view name_of(Order order);

/// A stage of the grammar. It does one or two of four things: `make` a codec, say what a chain
/// shall `remember`, put something `around` the finished codec of all stages to its right, or name
/// the index `code` of a selection.
struct Stage {
  using Make = std::function<std::unique_ptr<Codec>(Keys&, Binding&)>;
  using Remember = void (*)(Keys&, Memory&);
  using Around = std::unique_ptr<Codec> (*)(Keys&, std::unique_ptr<Codec>);
  using Code = std::unique_ptr<IndexCode> (*)(Keys&);
  const char* name;
  Order order;
  const char* what;  ///< one line for people, with the paper
  std::vector<StageKey> keys = {};
  Make make = nullptr;
  Remember remember = nullptr;
  Around around = nullptr;
  Code code = nullptr;
};

/// A name for a whole setting. In `chain`, {key=standard} takes the user's value of that key.
struct Preset {
  const char* name;
  const char* chain;
  const char* sections;  ///< "agg=recode", or ""
  const char* what;      ///< one line for people, with the paper
};

/// Defined at namespace scope by the one file that holds the stage:
///   const RegisterStage registered({.name = "topk", .order = Order::kSelect, ..., .make = make});
/// A maker that dislikes its keys says so by keys.refuse() and returns null.
struct RegisterStage {
  explicit RegisterStage(Stage stage);
};
struct RegisterPreset {
  explicit RegisterPreset(Preset preset);
};

/// Adds a stage, or one that hides an earlier stage of its name. What its strings point to must
/// stay. Errors: kOutOfMemory when there are too many. Threads: any.
Status add_stage(Stage stage);

/// All stages so far, the later of two with one name in force; they stay where they are. Threads:
/// any.
std::span<const Stage> stages();
std::span<const Preset> presets();

}  // namespace hora
