#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compressors/codec.h"

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

/// What a chain keeps between steps, as its memory stage says.
struct Memory {
  bool feedback = false;  ///< p = input_scale g + decay e, and e' = p - decode(encode(p))
  bool declined = false;  ///< `noef`: a biased chain stays without
  float decay = 1;
  bool update_units = false;  ///< e is in units of updates: rescaled when the learning rate changes
};

/// What a maker builds on: the tensor, the memory if this stage is the chain's outermost (else
/// none), and the codec of the stages to its right, which encodes what this stage hands it (null:
/// raw values).
struct Binding {
  const Extent& extent;
  Memory memory;
  std::unique_ptr<Codec> inner;
};

struct StageKey {
  const char* name;
  const char* standard;  ///< used when the setting does not say
};

/// A stage of the grammar. `order` is its place in a chain: 1 memory, 2 transform, 3 selection or
/// factors, 4 quantizer, 5 index code; two stages of one order exclude each other. A memory stage
/// has `remember`, any other has `make`.
struct Stage {
  using Make = std::unique_ptr<Codec> (*)(Keys&, Binding&&);
  using Remember = void (*)(Keys&, Memory&);
  const char* name;
  int order;
  std::vector<StageKey> keys;
  Make make = nullptr;
  Remember remember = nullptr;
};

/// A name for a whole setting. In `chain`, {key=standard} takes the user's value of that key.
struct Preset {
  const char* name;
  const char* chain;
  const char* sections;  ///< "agg=recode", or ""
};

/// Defined at namespace scope by the one file that holds the stage:
///   const RegisterStage registered({"topk", 3, {{"ratio", "0.01"}}, make});
/// A maker that dislikes its keys says so by keys.refuse() and returns null.
struct RegisterStage {
  explicit RegisterStage(Stage stage);
};
struct RegisterPreset {
  explicit RegisterPreset(Preset preset);
};

std::span<const Stage> stages();
std::span<const Preset> presets();

}  // namespace hora
