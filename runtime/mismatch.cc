#include "runtime/mismatch.h"

#include <algorithm>
#include <cstdio>

namespace hora {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

std::string shapes_text(const Signature& signature, const Signature& other, bool same_parts) {
  const auto& shapes = signature.shapes;
  if (signature.op == Op::kAddSet)
    return "members " + (shapes.empty() ? "[]" : to_string(shapes[0]));
  if (shapes.size() == 1 && same_parts) return "shape " + to_string(shapes[0]);
  if (!same_parts) {
    std::string text =
        std::to_string(shapes.size()) + (shapes.size() == 1 ? " tensor" : " tensors");
    return shapes.size() == 1 ? text + " of shape " + to_string(shapes[0]) : text;
  }
  constexpr int kNamed = 4;
  std::string text;
  int differing = 0;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i] == other.shapes[i] || ++differing > kNamed) continue;
    text += (text.empty() ? "" : ", ") + ("tensor " + std::to_string(i)) + " of shape " +
            to_string(shapes[i]);
  }
  if (differing > kNamed) text += " and " + std::to_string(differing - kNamed) + " more";
  return text;
}

// `other` is a variant to compare shapes with: the first, or for the first itself the first unlike
// it.
std::string describe(const Variant& variant, const Signature& other, std::span<const Variant> all) {
  const Signature& mine = variant.signature;
  const auto differs = [&](auto field) {
    return std::any_of(all.begin(), all.end(), [&](const Variant& each) {
      return !(each.signature.*field == mine.*field);
    });
  };
  std::string text;
  const auto say = [&](auto field, const std::string& words) {
    if (differs(field)) text += (text.empty() ? "" : ", ") + words;
  };
  say(&Signature::op, "operation " + std::string(name_of(mine.op)));
  say(&Signature::reduce, "reduction " + std::string(name_of(mine.reduce)));
  say(&Signature::dtype, "dtype " + std::string(name_of(mine.dtype)));
  say(&Signature::device,
      std::string("device ") + (mine.device == DeviceKind::kCuda ? "cuda" : "host"));
  say(&Signature::root,
      (mine.op == Op::kRemoveSet ? "process set " : "root ") + std::to_string(mine.root));
  say(&Signature::prescale, "prescale " + number(mine.prescale));
  say(&Signature::postscale, "postscale " + number(mine.postscale));
  say(&Signature::domain,
      mine.domain ? "optimizer " + std::to_string(mine.domain) : "no optimizer");
  say(&Signature::chain, "compression '" + (mine.chain.empty() ? "none" : mine.chain) + "'");
  say(&Signature::granule, "granule " + std::to_string(mine.granule));
  const bool same_parts = std::all_of(all.begin(), all.end(), [&](const Variant& each) {
    return each.signature.shapes.size() == mine.shapes.size();
  });
  if (differs(&Signature::shapes))
    text += (text.empty() ? "" : ", ") + shapes_text(mine, other, same_parts);
  return text;
}

}  // namespace

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string mismatch_text(std::string_view name, std::span<const Variant> variants,
                          size_t members) {
  std::string text = "'" + std::string(name) + "': ranks disagree: ";
  size_t covered = 0;
  for (size_t i = 0; i < variants.size(); ++i) {
    const Variant& variant = variants[i];
    covered += variant.count;
    text += (i ? "; rank " : "rank ") + std::to_string(variant.rank);
    if (variant.count > 1)
      text += " and " + std::to_string(variant.count - 1) + " more have ";
    else
      text += " has ";
    text += describe(variant, variants[i == 0 ? variants.size() - 1 : 0].signature, variants);
  }
  if (covered < members)
    text += "; " + std::to_string(members - covered) + " more ranks have something else again";
  if (text.size() > Limits::kTextBytes) text.resize(Limits::kTextBytes - 3), text += "...";
  return text;
}

}  // namespace hora
