// Whole settings by the names of their papers.

#include "compressors/stage.h"

namespace hora {
namespace {

const RegisterPreset kPresets[] = {
    RegisterPreset({"onebit", "ef+quant:bits=1,recon=twomean,bucket={bucket=512}", "agg=recode",
                    "1-bit SGD, Seide et al. 2014; blocks in the place of columns"}),
    RegisterPreset({"efsign", "ef:units=update+quant:bits=1,recon=l1mean,bucket={bucket=tensor}",
                    "agg=recode", "EF-signSGD, Karimireddy et al. 2019"}),
    RegisterPreset(
        {"signsgd", "noef+quant:bits=1,recon=unit,scale={scale=1}", "agg=vote",
         "signSGD with majority vote, Bernstein et al. 2018: the result is plus or minus scale"}),
    RegisterPreset(
        {"signum", "noef+quant:bits=1,recon=unit,scale={scale=1}", "agg=vote",
         "Signum, Bernstein et al. 2018: signsgd of a momentum, which the optimizer keeps"}),
    RegisterPreset(
        {"qsgd", "quant:bits={bits=4},bucket={bucket=512},recon={recon=levels},round=stochastic",
         "agg=recode",
         "QSGD, Alistarh et al. 2017; largest magnitude for a norm (recon=l2: Euclid's)"}),
    RegisterPreset({"terngrad",
                    "clip:sigma={clip=2.5}+noef+quant:bits=2,round=stochastic,bucket=tensor,"
                    "scale={scale=shared}",
                    "", "TernGrad, Wen et al. 2017; scale=1: each rank with a scale of its own"}),
    RegisterPreset({"natural", "quant:bits={bits=8},recon=natural,round=stochastic", "agg=recode",
                    "natural compression, Horvath et al. 2019, with a scale for each block"}),
    RegisterPreset({"fp8", "ef+quant:bits=8,recon={format=e4m3},round=nearest", "agg=recode",
                    "eight-bit floats, Micikevicius et al. 2022, with a scale for each block"}),
    RegisterPreset(
        {"strom",
         "ef+threshold:tau={tau=0.01},most={most=0.05}+quant:bits=1,recon=unit,scale={tau=0.01}"
         "+golomb:k={k=7}",
         "", "Strom 2015: plus or minus tau where the magnitude reaches it"}),
    RegisterPreset({"dryden",
                    "ef+proportion:pi={pi=64}+quant:bits=1,recon=twomean,bucket={bucket=512}", "",
                    "adaptive quantization, Dryden et al. 2016, with exact thresholds"}),
    RegisterPreset(
        {"drop", "ef+topk:ratio={ratio=1%}", "",
         "gradient dropping, Aji & Heafield 2017, with an exact threshold for each tensor"}),
    RegisterPreset({"dgc",
                    "clip:norm={clip=2.25},scale=rsqrtN+mc:m={m=0.9},mask={mask=true},nesterov={"
                    "nesterov=false}"
                    "+topk:ratio={ratio=0.1%},warmup={warmup=0}",
                    "", "deep gradient compression, Lin et al. 2018; the norm is each tensor's"}),
    RegisterPreset(
        {"powersgd", "ef+lowrank:rank={rank=2}", "agg=linear", "PowerSGD, Vogels et al. 2019"}),
    RegisterPreset({"gradiveq", "noef+basis:slice={K=512},rank={r=64},refresh={refresh=500}",
                    "agg=linear",
                    "GradiVeQ, Yu et al. 2018; how the basis is learned is our reconstruction"}),
    RegisterPreset(
        {"fosgd",
         "noef+hadamard:block={block=32k}+quant:bits=1,recon=lambda,scale={c=2},bucket=32k",
         "agg=recode",
         "FO-SGD, Stollenwerk & Jacques 2024, in blocks; our reading of its abstract"}),
};

}  // namespace
}  // namespace hora
