#include "compressors/reference.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

#include "compressors/automatic.h"
#include "compressors/chain.h"
#include "compressors/registry.h"

namespace hora {
namespace {

constexpr const char* kHead = R"(# Compressors

`HORA_COMPRESSION`, or `compression=` of a call, is one line of text. This page is written by
`hora compress list --markdown`; `hora compress explain "<setting>" --model shapes.json` says what a
setting does to a model.

```
 onebit;agg=gather;rule=dim<=1->none          a setting: sections between ;
 └─┬──┘ └───┬────┘ └───────┬───────┘
 chain   section    rule=condition->chain     the first rule that matches a tensor gives its chain

 clip:norm=1 + ef:decay=0.9 + hadamard + topk:ratio=1% + quant:bits=4 + golomb:k=6
 └───┬─────┘   └────┬─────┘   └──┬───┘   └────┬──────┘   └────┬─────┘   └───┬────┘
  prepare        memory      transform      select        quantize      index code
                     each is optional; this is the order; + joins them
```

- A key is `name=value`; a name alone is `name=true`. Numbers may end in `%`, `k` (1024) or `M`.
- Conditions: `dim<=1`, `size<4k` (or `numel`), `glob:*embed*`; relations `< <= > >= =`.
- Sections: `agg=auto|linear|recode|gather|merge|vote` says how payloads are added up
  ([architecture.md](architecture.md#compression)); `agg=merge:degrees=8x4x2` for the butterfly of 64 ranks.
  `link=all|inter`: inter compresses what travels between hosts only, see [below](#between-hosts-only).
  `down=chain` is for sums on their way back, see [below](#the-way-down).
- `none` sends values as they are; `auto` chooses for each tensor, [see below](#auto).
- A chain that is biased gets `ef` unless it says `noef`. A preset may stand in a chain; what it
  expands to goes where it belongs, and its memory gives way to one that is there already.
- Ranks compare the expanded text, so presets and what they stand for are the same setting.
- Payloads have a size that follows from the tensor's, but for `lossless` (with `room=1`, the standard),
  `rle` and `threshold`: theirs are as long as the numbers need, and ranks tell each other the sizes before
  they exchange them, one delay more on each way. `hora compress explain` shows the most that it may be;
  `compressed_wire_bytes` of the [metrics](timeline.md) what it was.
)";

constexpr const char* kDown = R"(
## The way down

In a recode every rank sends the parts of its payload to their owners, who add them up and encode the
sums for all. `down=` is the chain of that second encoding, such as `onebit;down=fp8`; without it, it
is the first one's. An owner has a memory of its own, by `down`'s rules, for the elements it owns:

| setting | an owner |
|---|---|
| `onebit` | encodes as ranks do, and remembers what it did not say |
| `onebit;down=ef:decay=0.9+quant:bits=4,round=nearest` | remembers by other rules |
| `onebit;down=noef+quant:bits=1,recon=twomean` | remembers nothing: what it did not say is lost |
| `qsgd;down=fp8` | remembers, though ranks do not |
| `onebit;down=lossless` | says the sums as they are |
| `drop;down=drop:ratio=5%` | sends the largest of the sums only; ranks select in each stripe of it |

`down=` implies `agg=recode`. What clips or has momentum is for gradients and cannot stand in it, nor
can chains whose payloads mean something as sums only (`powersgd`, `randk` with a memory). Rules' chains
go both ways. A compressor in Python that fails on the way up shows as NaN, where another chain goes down.
)";

constexpr const char* kLinks = R"(
## Between hosts only

With `link=inter`, ranks of a host add up their gradients as they are, through memory; the chain
encodes the host's sum, and results spread inside the host again. To the chain hosts are the ranks: a
gradient is what a host's ranks have together, for averages as large as one rank's (times hosts by
ranks). Each host is heard once, so there is less to encode, less is lost, and the rank count that
`agg=auto`, `clip:scale=rsqrtN` and gathered payloads go by is that of hosts.

- A tensor is cut into shards at multiples of the codec's granule, one for each member of the smallest
  host; member c of every host exchanges shard c. Members beyond that only add up inside. A tensor of
  one granule, and one whose chain looks at it whole (`lowrank`, `clip`, `bucket=tensor`), is one
  member's; which, depends on its name. `topk` selects in each shard.
- A rank remembers its shard alone. A saved state goes on to the bit with the same hosts and ranks; with
  others every shard goes where its elements now belong, and the mean (or sum) over hosts stays what
  it was, if every rank loads all parts. A rank that is given one part as its own, as in an elastic job,
  counts as lost what is not of its new shard.
- Ranks on one host: nothing is compressed, and rank 0 says so at `HORA_LOG_LEVEL=info`. One rank on each
  host: as `link=all`. Both hold for each process set.
- An exchange that fails inside the host before anything was encoded leaves memories as they were; later,
  all that was encoded is owed again. A NaN poisons its block of the host's sum.
- `HORA_HIERARCHICAL=0` forbids the sums inside hosts, and is an error with it.

`hora compress explain "...;link=inter" --ranks 8 --hosts 2` shows the bytes of both links.
)";

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '|' ? std::string("\\|") : std::string(1, c);
  return out;
}

template <class Table>
std::vector<const typename Table::value_type*> sorted(const Table& table) {
  std::vector<const typename Table::value_type*> list;
  for (const auto& entry : table) list.push_back(&entry);
  std::sort(list.begin(), list.end(), [](const auto* a, const auto* b) {
    return std::string_view(a->name) < std::string_view(b->name);
  });
  return list;
}

std::string preset_table() {
  std::string out = "\n## Presets\n\n| preset | stands for | what it is |\n|---|---|---|\n";
  for (const Preset* preset : sorted(presets())) {
    const char* separator = *preset->sections ? ";" : "";
    out += fmt::format("| `{}` | `{}{}{}` | {} |\n", preset->name, escaped(preset->chain),
                       separator, preset->sections, escaped(preset->what));
  }
  return out + "\nIn braces: keys of the preset, with their standard values: `drop:ratio=0.1%`.\n";
}

std::string stage_table() {
  std::string out = "\n## Stages\n\n| place | stage | what it is | keys |\n|---|---|---|---|\n";
  std::vector<const Stage*> list = sorted(stages());
  std::stable_sort(list.begin(), list.end(),
                   [](const Stage* a, const Stage* b) { return a->order < b->order; });
  for (const Stage* stage : list) {
    std::string keys;
    for (const StageKey& key : stage->keys) {
      keys += fmt::format("{}`{}={}`: {}", keys.empty() ? "" : "<br>", key.name, key.standard,
                          escaped(key.what));
    }
    out += fmt::format("| {} | `{}` | {} | {} |\n", name_of(stage->order), stage->name,
                       escaped(stage->what), keys);
  }
  return out;
}

std::string automatic_table() {
  std::string out = R"(
## `auto`

By its size each tensor gets the chain below whose exchange takes the least time: for the links between the
hosts as measured at start (`HORA_LINKS`), and for codecs as fast as the slowest rank's
(`HORA_CODEC_SPEEDS`). Of those that need at most 5 % more, it is the most exact one, never one slower than
bf16; and where none pays, none. All ranks go by the same numbers. Rank 0 logs the table of its decisions at
level `info`; `hora plan --compression auto` and `hora compress explain auto --link 1gbit --model
shapes.json` print it beforehand, for the speed of the machine that they run on.

When ranks meet again in the same processes, as an [elastic](elastic.md) job's do, links and codecs are
measured anew. A tensor keeps the chain that it had, and what that remembers, while it is allowed and needs at
most 20 % more time than what would now be chosen; rank 0 tells which that was.

`auto:error=0.1` allows chains with a relative error of a gradient of at most that; `auto` alone is
`auto:error=0.7`. The errors are those of one exchange of normal numbers: what all but bf16 leave out stays
in their memories and is sent later. `auto` composes with rules (`auto;rule=dim<=1->none`) and chooses the
aggregation, too. A process set goes by the number of its own hosts and ranks: one inside a host travels as it
is.

| word | stands for | error |
|---|---|---|
)";
  for (const AutomaticChain& one : automatic_chains())
    out += fmt::format("| {} | `{}` | {:g} |\n", one.name, one.chain, one.error);
  return out;
}

std::string rounding_of(const char* family, int bits) {
  const bool random = find_host_kernels(family, bits, true) != nullptr;
  const bool nearest = find_host_kernels(family, bits, false) != nullptr;
  return random && nearest ? "either" : random ? "stochastic" : "nearest";
}

std::string quantizer_table() {
  std::string out =
      "\n## Quantizers: `quant:recon=`\n\n| recon | bits | round | promises |\n|---|---|---|---|\n";
  std::vector<std::string> rows;
  std::vector<std::string_view> seen;
  for (size_t i = 0; i < kernel_count(); ++i) {
    const char* family = kernel_at(i)->family;
    if (kernel_at(i)->bits > 8 || std::find(seen.begin(), seen.end(), family) != seen.end())
      continue;
    seen.push_back(family);
    int least = 8, most = 1;
    std::string promises;
    for (size_t j = 0; j < kernel_count(); ++j) {
      const BlockKernels& k = *kernel_at(j);
      if (std::string_view(k.family) != family) continue;
      least = std::min(least, k.bits), most = std::max(most, k.bits);
      const char* says = k.promises.unbiased      ? "unbiased"
                         : k.promises.contractive ? "contracts"
                                                  : "";
      if (*says == 0 || promises.find(says) != promises.npos) continue;
      promises += promises.empty() ? says : fmt::format(", {}", says);
    }
    const std::string bits =
        least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most);
    rows.push_back(fmt::format("| `{}` | {} | {} | {} |\n", family, bits,
                               rounding_of(family, least), promises.empty() ? "none" : promises));
  }
  std::sort(rows.begin(), rows.end());
  for (const std::string& row : rows) out += row;
  return out + R"(
Stochastic rounding is unbiased where the table says so, rounding to the nearest contracts. What each
of them computes stands at the head of its file in `compressors/kernels`.
)";
}

}  // namespace

std::string compressors_markdown() {
  return kHead + automatic_table() + preset_table() + stage_table() + quantizer_table() + kDown +
         kLinks;
}

}  // namespace hora
