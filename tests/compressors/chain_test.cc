// Goal: a setting means one thing, says so, and a mistake is pointed at.
// Method: canonical forms as fixed points; the exact text of messages, which people read.

#include "compressors/rules.h"
#include "tests/compressors/trial.h"

namespace hora {
namespace {

std::string message(const char* text) {
  return ChainConfig::parse(text).status().message();
}

TEST(Chain, CanonicalIsAFixedPoint) {
  auto texts = all_chains();
  for (const char* more :
       {"none", "onebit:bucket=column", "up=onebit;agg=gather;link=all", "ef+topk:ratio=0.1%+fp16",
        "agg=auto;none", "auto", "auto:error=12.5%", "agg=auto;up=auto:error=0;link=all",
        "link=inter;onebit", "none;link=inter", "onebit;down=fp8", "down=noef+onebit;drop",
        "onebit;down=onebit;agg=recode;link=inter"}) {
    texts.push_back(more);
  }
  for (const std::string& text : texts) {
    const auto config = ChainConfig::parse(text);
    ASSERT_TRUE(config.ok()) << text << ": " << config.status().message();
    const auto again = ChainConfig::parse(config.value().canonical());
    ASSERT_TRUE(again.ok()) << config.value().canonical() << ": " << again.status().message();
    EXPECT_EQ(again.value().canonical(), config.value().canonical());
  }
}

TEST(Chain, PresetsAreExpandedAndKeysWrittenOut) {
  const auto canonical = [](const char* text) {
    return ChainConfig::parse(text).value().canonical();
  };
  EXPECT_EQ(canonical("none"), "none");
  EXPECT_EQ(canonical("drop:ratio=1%"),
            "ef:decay=1,dtype=f32,ref=local,units=grad+topk:ratio=0.01,warmup=0;agg=auto");
  EXPECT_EQ(
      canonical("onebit:bucket=2k"),
      "ef:decay=1,dtype=f32,ref=local,units=grad+quant:bits=1,bucket=2048,recon=twomean,round=auto,"
      "scale=1;agg=recode");
  EXPECT_EQ(canonical("topk"),
            "ef:decay=1,dtype=f32,ref=local,units=grad+topk:ratio=0.01,warmup=0;agg=auto");
  EXPECT_EQ(canonical("agg=gather;onebit"), canonical("onebit;agg=gather"));
}

TEST(Chain, AutoIsNoChainYet) {
  const ChainConfig config = ChainConfig::parse("auto:error=10%").value();
  EXPECT_EQ(config.automatic(), 0.1);
  EXPECT_FALSE(config.none());
  EXPECT_EQ(config.canonical(), "auto:error=0.1");
  EXPECT_EQ(ChainConfig::parse("auto").value().canonical(), "auto:error=0.7");
  EXPECT_EQ(ChainConfig::parse("onebit").value().automatic(), std::nullopt);
}

TEST(Chain, MistakesOfAutoArePointedAt) {
  EXPECT_EQ(message("uato"),
            "compression, character 1: no stage or preset 'uato'; did you mean 'auto'?");
  EXPECT_EQ(message("auto:eror=0.1"),
            "compression, character 6: 'auto' has no key 'eror'; did you mean 'error'?");
  EXPECT_EQ(message("auto:error=2"),
            "compression, character 1: 'auto': error=2 must lie between 0 and 1");
  EXPECT_EQ(message("auto:error"), "compression, character 1: 'auto': error=true is not a number");
  EXPECT_EQ(message("ef+auto"), "compression, character 4: 'auto' must stand alone");
  EXPECT_EQ(message("auto:error=0.1+topk"), "compression, character 1: 'auto' must stand alone");
  for (const char* text : {"auto;link=inter", "auto;down=fp8"}) {
    EXPECT_EQ(message(text),
              "compression, character 1: 'auto' is for all links, and chooses the way down, too");
  }
  EXPECT_FALSE(parse_rules("onebit;link=inter;rule=dim<=1->auto").ok());
  EXPECT_FALSE(ChainConfig::parse("onebit;down=auto").ok());
  EXPECT_EQ(message("auto;agg=gather"),
            "compression, character 1: 'auto' chooses the aggregation, too; leave agg=gather out");
}

TEST(Chain, TheWayDownIsAChainOfItsOwn) {
  const auto config = ChainConfig::parse("drop;down=onebit").value();
  ASSERT_NE(config.down(), nullptr);
  EXPECT_EQ(config.down()->chain_text(), ChainConfig::parse("onebit").value().chain_text());
  EXPECT_EQ(config.chain_text(), ChainConfig::parse("drop").value().chain_text());
  const auto codec = config.codec({1, 1, 5000}).value();
  EXPECT_EQ(config.aggregation(*codec, 4), Aggregation::kRecode) << "sparse payloads, too";
  EXPECT_EQ(ChainConfig::parse("onebit").value().down(), nullptr);
}

TEST(Chain, MistakesArePointedAt) {
  EXPECT_EQ(message("ef+topq:ratio=1%"),
            "compression, character 4: no stage or preset 'topq'; did you mean 'topk'?");
  EXPECT_EQ(message("topk:ratoi=1%"),
            "compression, character 6: 'topk' has no key 'ratoi'; did you mean 'ratio'?");
  EXPECT_EQ(message("drop:ratoi=1%"),
            "compression, character 6: 'drop' has no key 'ratoi'; did you mean 'ratio'?");
  EXPECT_EQ(message("topk+ef"), "compression, character 6: 'ef' must come before 'topk'");
  EXPECT_EQ(message("fp16+bf16"), "compression, character 6: 'bf16' excludes 'fp16'");
  EXPECT_EQ(message(""), "compression, character 1: the name of a stage is missing");
  EXPECT_EQ(message("ef+"), "compression, character 4: the name of a stage is missing");
  EXPECT_EQ(message("topk:"), "compression, character 6: 'topk' has no key ''");
  EXPECT_EQ(message("topk:ratio="), "compression, character 6: the value of 'ratio' is missing");
  EXPECT_EQ(message("topk:ratio=2%,ratio=1%"), "compression, character 15: 'ratio' is given twice");
  EXPECT_EQ(message("topk:ratio=2"),
            "compression, character 1: 'topk': ratio=2 must lie between 1e-09 and 1");
  EXPECT_EQ(message("ef:units=ton+bf16"),
            "compression, character 1: 'ef': units=ton must be one of: grad, update");
  EXPECT_EQ(message("ef"),
            "compression, character 1: 'ef': alone compresses nothing; add a stage or "
            "write 'none'");
  EXPECT_EQ(message("ef+none"), "compression, character 4: 'none' must stand alone");
  EXPECT_EQ(message("agg=recode"),
            "compression, character 1: the chain is missing; write 'none' for no compression");
  EXPECT_EQ(message("onebit;agg=ring"), "compression, character 8: no aggregation 'ring'");
  EXPECT_EQ(
      message("onebit;agg=linear"),
      "compression, character 1: agg=linear needs a chain whose payloads can be added; use recode "
      "or gather");
  EXPECT_EQ(message("onebit;down=bf15"),
            "compression, character 13: no stage or preset 'bf15'; did you mean 'bf16'?");
  EXPECT_EQ(message("onebit;down=none"),
            "compression, character 13: 'none' cannot stand here; 'lossless' brings sums as they "
            "are");
  EXPECT_EQ(message("onebit;down=clip:norm=1+fp8"),
            "compression, character 13: 'clip' is for gradients, not for their sums");
  EXPECT_EQ(message("onebit;down=mc:mask=false+fp8"),
            "compression, character 13: 'mc' is for gradients, not for their sums");
  EXPECT_EQ(message("onebit;down=powersgd"),
            "compression, character 13: payloads of this chain mean something as sums only");
  EXPECT_EQ(message("powersgd;down=onebit"),
            "compression, character 15: what goes up means something as sums only; leave down= "
            "out");
  EXPECT_EQ(message("onebit;agg=gather;down=fp8"),
            "compression, character 24: nothing goes down with agg=gather");
  EXPECT_EQ(message("none;down=fp8"),
            "compression, character 11: down= needs a chain on the way up");
  EXPECT_EQ(message("onebit;down=fp8;down=fp8"), "compression, character 22: a second way down");
  EXPECT_EQ(message("onebit;link=intra"),
            "compression, character 8: link=intra: it is all, or inter: only what travels between "
            "hosts is compressed");
  EXPECT_EQ(message("onebit;agr=gather"),
            "compression, character 8: no section 'agr'; did you mean 'agg'?");
  EXPECT_EQ(message("onebit;drop"),
            "compression, character 8: a second chain; stages are joined by '+'");
  EXPECT_TRUE(message("quant:bits=3,recon=twomean")
                  .starts_with("compression, character 1: 'quant': no quantizer recon=twomean with "
                               "bits=3 round=auto; there are: "));
  EXPECT_EQ(message("golomb"),
            "compression, character 1: 'golomb': alone compresses nothing; add a stage or write "
            "'none'");
  EXPECT_EQ(message("bf16+golomb"),
            "compression, character 6: 'golomb': needs a selection such as topk to its left");
  EXPECT_EQ(message("hadamard+topk"),
            "compression, character 1: 'hadamard': a selection cannot follow: its indices would be "
            "those of the rotated block");
  EXPECT_EQ(message("hadamard"),
            "compression, character 1: 'hadamard': needs a quantizer to its right");
  EXPECT_EQ(message("clip+onebit"),
            "compression, character 1: 'clip': give norm= or sigma=, above 0, and not both");
  EXPECT_EQ(message("mc+quant:bits=8"),
            "compression, character 1: 'mc': mask needs a selection such as topk; write "
            "mask=false");
  EXPECT_EQ(
      message("randk+bf16"),
      "compression, character 1: 'randk': no quantizer can follow: payloads are added as they "
      "are");
  EXPECT_EQ(message("onebit+clip:norm=1"),
            "compression, character 8: 'clip' must come before 'quant'");
  EXPECT_EQ(message("ef+randk;agg=gather"),
            "compression, character 1: agg=gather does not suit this chain; leave agg= out");
}

TEST(Chain, WhatAPresetExpandsToGoesWhereItBelongs) {
  const auto chain = [](const char* text) {
    return std::string(ChainConfig::parse(text).value().chain_text());
  };
  const std::string quant = "quant:bits=1,bucket=512,recon=twomean,round=auto,scale=1";
  EXPECT_EQ(chain("hadamard+onebit"),
            "ef:decay=1,dtype=f32,ref=local,units=grad+hadamard:block=32768+" + quant);
  EXPECT_EQ(chain("ef:decay=0.5+onebit"), "ef:decay=0.5,dtype=f32,ref=local,units=grad+" + quant);
  EXPECT_EQ(chain("noef+onebit"), "noef+" + quant);
  EXPECT_EQ(chain("clip:norm=1+topk"),
            "clip:norm=1,scale=one,sigma=0+ef:decay=1,dtype=f32,ref=local,units=grad+topk:ratio=0."
            "01,warmup=0");
}

TEST(Chain, ABiasedChainGetsAMemoryUnlessDeclined) {
  const auto has_memory = [](const char* text) { return !Trial(text, 100).residual().empty(); };
  EXPECT_TRUE(has_memory("quant:bits=1,recon=twomean"));
  EXPECT_FALSE(has_memory("noef+quant:bits=1,recon=twomean"));
  EXPECT_FALSE(has_memory("quant:bits=4,round=stochastic"));
  EXPECT_TRUE(has_memory("topk"));
  EXPECT_FALSE(has_memory("fp16"));
}

TEST(Chain, TraitsPickTheAggregation) {
  const auto how = [](const char* text, int ranks = 4) {
    Trial trial(text, 100);
    return trial.config.aggregation(*trial.codec, ranks);
  };
  EXPECT_EQ(how("fp16"), Aggregation::kLinear);
  EXPECT_EQ(how("ef+fp16"), Aggregation::kRecode);
  EXPECT_EQ(how("onebit"), Aggregation::kRecode);
  EXPECT_EQ(how("onebit;agg=gather"), Aggregation::kGather);
  EXPECT_EQ(how("drop"), Aggregation::kGather);
  EXPECT_EQ(how("drop;agg=merge"), Aggregation::kMerge);
}

TEST(Chain, ManyRanksMergeWhatFewGather) {
  const auto how = [](const char* text, int ranks) {
    Trial trial(text, 100);
    return trial.config.aggregation(*trial.codec, ranks);
  };
  EXPECT_EQ(how("topk:ratio=0.1%", 2), Aggregation::kGather);
  EXPECT_EQ(how("topk:ratio=0.1%", 64), Aggregation::kMerge);
  EXPECT_EQ(how("topk:ratio=20%", 4), Aggregation::kGather);
  EXPECT_EQ(how("topk:ratio=20%", 8), Aggregation::kMerge);  // elements themselves come back
  EXPECT_EQ(how("noef+topk:ratio=0.1%", 64),
            Aggregation::kGather);  // what has no room would be lost
  EXPECT_FALSE(ChainConfig::parse("onebit;agg=merge").ok());
}

TEST(Rules, TheFirstThatMatchesDecides) {
  const auto rules =
      parse_rules("onebit;rule=glob*embed*->drop;rule=dim<=1->none;rule=size<4k->bf16;agg=gather")
          .value();
  const auto chain = [&](const char* name, const Shape& shape) {
    return rules.for_tensor(name, shape, DType::kFloat32).chain_text();
  };
  EXPECT_EQ(chain("layer.bias", {100000}), "none");
  EXPECT_EQ(chain("layer.weight", {64, 64}), ChainConfig::parse("onebit").value().chain_text());
  EXPECT_EQ(chain("layer.weight", {63, 65}), "bf16");
  EXPECT_EQ(chain("my.embedding", {7}), ChainConfig::parse("drop").value().chain_text());
  EXPECT_TRUE(rules.for_tensor("layer.weight", {64, 64}, DType::kFloat64).none());
  EXPECT_TRUE(rules.for_tensor("layer.weight", {64, 64}, DType::kInt32).none());
  EXPECT_FALSE(rules.for_tensor("layer.weight", {64, 64}, DType::kBFloat16).none());
  EXPECT_EQ(parse_rules(rules.canonical()).value().canonical(), rules.canonical());
  EXPECT_TRUE(rules.canonical().ends_with(
      ";rule=glob:*embed*->ef:decay=1,dtype=f32,ref=local,units=grad+topk:ratio=0.01,warmup=0;rule="
      "dim<=1->none;rule=size<4096->bf16"));
}

TEST(Rules, AWordThatAProgramMayAddIsFound) {
  for (const char* text : {"mine", "ef+mine:key=1%+golomb", "up=mine", "onebit;down=noef+mine",
                           "agg=gather;none;rule=size<4k->bf16;rule=glob:a:b+c->mine"})
    EXPECT_EQ(unknown_stage(text), "mine") << text;
  EXPECT_EQ(unknown_stage("onebitt+mine"), "onebitt");
  for (const char* text : {"", "none", "auto:error=1%", "onebit", "ef+topk:mine=1", "mine=1;onebit",
                           "Mine", "2mine", "my mine", "agg=mine", "link=mine", "ef++topk",
                           "onebit;rule=mine", "onebit;rule=glob:mine->drop:ratio=1%"})
    EXPECT_EQ(unknown_stage(text), "") << text;
}

TEST(Rules, AutoStandsBesideOthers) {
  const auto rules = parse_rules("auto:error=5%;rule=dim<=1->none;rule=size>1M->auto").value();
  EXPECT_EQ(rules.canonical(),
            "auto:error=0.05;rule=dim<=1->none;rule=size>1048576->auto:error=0.7");
  EXPECT_EQ(parse_rules(rules.canonical()).value().canonical(), rules.canonical());
  EXPECT_EQ(rules.automatic(), 0.05);
  EXPECT_TRUE(rules.for_tensor("b", {7}, DType::kFloat32).none());
  EXPECT_EQ(rules.for_tensor("w", {2000, 2000}, DType::kFloat32).automatic(), 0.7);
  EXPECT_TRUE(rules.for_tensor("w", {7, 7}, DType::kFloat64).none());
  EXPECT_EQ(parse_rules("none;rule=dim>1->auto").value().automatic(), 0.7);
  EXPECT_EQ(parse_rules("onebit").value().automatic(), std::nullopt);
}

TEST(Rules, ChainsOfRulesTravelOnTheLinksOfTheSetting) {
  const auto rules = parse_rules("onebit;rule=dim<=1->bf16;link=inter").value();
  EXPECT_TRUE(rules.for_tensor("w", {64, 64}, DType::kFloat32).between_hosts());
  EXPECT_EQ(rules.for_tensor("b", {64}, DType::kFloat32).canonical(), "bf16;agg=auto;link=inter");
  EXPECT_EQ(parse_rules(rules.canonical()).value().canonical(), rules.canonical());
  EXPECT_FALSE(parse_rules("onebit;link=all").value().chain().between_hosts());
}

TEST(Rules, MistakesArePointedAt) {
  const auto rules_message = [](const char* text) { return parse_rules(text).status().message(); };
  EXPECT_EQ(rules_message("bf16;rule=dim<=1"),
            "compression, character 11: a rule needs '->' and a chain: rule=dim<=1->none");
  EXPECT_EQ(rules_message("bf16;rule=dims<=1->none"),
            "compression, character 11: no condition 'dims'; did you mean 'dim'?");
  EXPECT_EQ(rules_message("bf16;rule=dim<=x->none"),
            "compression, character 16: 'x' is not a whole number");
  EXPECT_EQ(rules_message("bf16;rule=dim->none"),
            "compression, character 14: 'dim' needs <, <=, >, >= or = and a number");
  EXPECT_EQ(rules_message("bf16;rule=dim<=1->nine"),
            "compression, character 19: no stage or preset 'nine'; did you mean 'none'?");
  EXPECT_EQ(rules_message("rule=dim<=1->none"),
            "compression, character 1: the chain is missing; write 'none' for no compression");
}

}  // namespace
}  // namespace hora
