// tools/verbs/overview.h: the verbs as `regroup --help` lists them. Needs no LibTorch, because the
// launcher prints it.
#pragma once

namespace regroup {

struct VerbOverview {
  const char* name;
  const char* summary;
};

inline constexpr VerbOverview kVerbs[] = {
    {"pretrain", "trains a decoder from random weights"},
    {"uptrain", "converts an original, trains it a little, compares the two"},
    {"convert", "pools the K/V heads of a checkpoint"},
    {"eval", "quality and inference cost of models side by side"},
    {"score", "log-probability of every token"},
    {"generate", "continues a prompt"},
    {"export", "writes a deployable model"},
    {"bench", "throughput and memory of training and decoding"},
    {"inspect", "says what a file or folder is"},
    {"plan", "what a training job will need of each GPU"},
};

}  // namespace regroup
