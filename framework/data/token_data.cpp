#include "framework/data/token_data.h"

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <utility>

#include "framework/errors/error.h"
#include "framework/files/hash.h"
#include "framework/tensors/dtype.h"

namespace regroup {
namespace {

constexpr int64_t kFormatVersion = 1;
constexpr int64_t kScanChunk = int64_t{1} << 20;  // tokens per read when all are scanned
constexpr const char* kWriteAgain = "Write the file again with tools/prepare_data.py.";
constexpr const char* kChoicesGroup = "choices";

[[noreturn]] void malformed(const std::string& where, const std::string& what) {
  throw Error(where, what, kWriteAgain);
}

std::string described(const Hdf5Dataset& dataset) {
  return c10::str(dtype_info(dataset.dtype()).hf_name, " ", c10::IntArrayRef(dataset.shape()));
}

/// 1-D uint16 or uint32, not empty.
Hdf5Dataset open_tokens(const Hdf5File& file, const std::string& group) {
  auto tokens = file.dataset(group + "/tokens");
  const std::string where = file.where() + ": " + group;
  const bool is_unsigned = tokens.dtype() == at::kUInt16 || tokens.dtype() == at::kUInt32;
  if (!is_unsigned || tokens.shape().size() != 1) {
    malformed(where, "tokens are " + described(tokens) + ", expected uint16 or uint32 on one axis");
  }
  if (tokens.shape()[0] == 0) malformed(where, "is empty: it has 0 tokens");
  return tokens;
}

/// A uint64 dataset with this many axes, as int64; a value beyond int64 becomes negative and fails
/// the range checks that follow.
at::Tensor read_offsets(const Hdf5File& file, const std::string& group, const std::string& name,
                        size_t n_axes) {
  const auto dataset = file.dataset(group + "/" + name);
  if (dataset.dtype() != at::kUInt64 || dataset.shape().size() != n_axes) {
    malformed(file.where() + ": " + group,
              c10::str(name, " are ", described(dataset), ", expected uint64 on ", n_axes,
                       n_axes == 1 ? " axis" : " axes"));
  }
  return dataset.read().view(at::kLong);
}

/// Throws Error unless offsets start at `first`, never fall, and end at `last`.
void check_offsets(const at::Tensor& offsets, int64_t first, int64_t last, const std::string& where,
                   const std::string& name) {
  const int64_t* value = offsets.const_data_ptr<int64_t>();
  const int64_t n = offsets.numel();
  if (n < 2) malformed(where, c10::str(name, " have ", n, " entries, expected at least 2"));
  if (value[0] != first)
    malformed(where, c10::str(name, " begin at ", value[0], ", expected ", first));
  for (int64_t i = 1; i < n; ++i) {
    if (value[i] >= value[i - 1]) continue;
    malformed(where,
              c10::str(name, " fall from ", value[i - 1], " to ", value[i], " at entry ", i));
  }
  if (value[n - 1] != last) {
    malformed(where, c10::str(name, " end at ", value[n - 1], ", but there are ", last, " tokens"));
  }
}

void refuse_id(const std::string& where, int64_t id, int64_t vocab_size) {
  throw Error(where,
              c10::str("holds the token id ", id, ", but ids of a vocabulary of ", vocab_size,
                       " end at ", vocab_size - 1),
              "Use token data made with the model's tokenizer.");
}

int64_t required_integer(const Hdf5File& file, const std::string& name, int64_t min, int64_t max) {
  const auto value = file.integer_attribute("/", name);
  if (!value) malformed(file.where(), "has no attribute " + name);
  if (*value < min || *value > max) {
    malformed(file.where(),
              c10::str("attribute ", name, " is ", *value, ", expected ", min, " to ", max));
  }
  return *value;
}

}  // namespace

/// The results of one pass over all tokens.
struct TokenSplit::Scan {
  int64_t max_id = 0;
  std::string fingerprint;
};

TokenSplit::TokenSplit(const Hdf5File& file, const std::string& name)
    : name_(name),
      where_(file.where() + ": /" + name),
      tokens_(open_tokens(file, "/" + name)),
      offsets_(read_offsets(file, "/" + name, "offsets", 1)),
      bytes_(file.integer_attribute("/" + name, "bytes")) {
  check_offsets(offsets_, 0, n_tokens(), where_, "offsets");
  if (bytes_ && *bytes_ < 0) malformed(where_, c10::str("attribute bytes is ", *bytes_));
}

at::Tensor TokenSplit::read(int64_t begin, int64_t count) const {
  return tokens_.read_rows(begin, count).to(at::kLong);
}

int64_t TokenSplit::n_predicted() const {
  return (offsets_.diff() - 1).clamp_min(0).sum().item<int64_t>();
}

const TokenSplit::Scan& TokenSplit::scan() const {
  if (scan_) return *scan_;
  Scan scan;
  Hash hash;
  for (int64_t begin = 0; begin < n_tokens(); begin += kScanChunk) {
    const auto ids = read(begin, std::min(kScanChunk, n_tokens() - begin));
    scan.max_id = std::max(scan.max_id, ids.max().item<int64_t>());
    hash.add(ids.const_data_ptr(), ids.nbytes());
  }
  hash.add(offsets_.const_data_ptr(), offsets_.nbytes());
  scan.fingerprint = hash.digits();
  scan_ = std::make_shared<const Scan>(scan);
  return *scan_;
}

int64_t TokenSplit::max_id() const { return scan().max_id; }

std::string TokenSplit::fingerprint() const { return scan().fingerprint; }

void TokenSplit::check_ids(int64_t vocab_size) const {
  if (max_id() >= vocab_size) refuse_id(where_, max_id(), vocab_size);
}

Choices Choices::open(const std::filesystem::path& path) {
  const auto file = Hdf5File::open(path);
  const std::string group = std::string("/") + kChoicesGroup;
  Choices choices;
  choices.where_ = file.where() + ": " + group;
  if (!file.exists(group)) {
    throw Error(file.where(), "has no questions (group " + group + ")",
                "Write them with tools/prepare_data.py --choices N.");
  }
  choices.tokens_ = open_tokens(file, group).read().to(at::kLong);
  choices.context_offsets_ = read_offsets(file, group, "context_offsets", 1);
  choices.option_offsets_ = read_offsets(file, group, "option_offsets", 2);
  const auto gold = file.dataset(group + "/gold");
  if (gold.dtype() != at::kLong || gold.shape().size() != 1) {
    malformed(choices.where_, "gold is " + described(gold) + ", expected int64 on one axis");
  }
  choices.gold_ = gold.read();
  choices.check(file.integer_attribute(group, "n_options"));
  return choices;
}

void Choices::check(std::optional<int64_t> announced_n_options) const {
  const int64_t n = size();
  if (n == 0) malformed(where_, "has 0 questions");
  if (context_offsets_.numel() != n + 1 || option_offsets_.size(0) != n) {
    malformed(where_, c10::str("gold has ", n, " entries, but context_offsets ",
                               context_offsets_.numel(), " (expected ", n + 1,
                               ") and option_offsets ", option_offsets_.size(0), " rows"));
  }
  if (n_options() < 2) malformed(where_, c10::str("questions have ", n_options(), " options"));
  if (announced_n_options.value_or(n_options()) != n_options()) {
    malformed(where_, c10::str("attribute n_options is ", *announced_n_options,
                               ", but option_offsets hold ", n_options(), " options"));
  }
  check_ranges();
}

void Choices::check_ranges() const {
  const int64_t* context = context_offsets_.const_data_ptr<int64_t>();
  const int64_t* option = option_offsets_.const_data_ptr<int64_t>();
  const int64_t* gold = gold_.const_data_ptr<int64_t>();
  const int64_t n_tokens = tokens_.numel();
  const int64_t stride = n_options() + 1;
  // Offsets must rise, so that no context and no option is empty.
  const auto check_rise = [&](const std::string& what, int64_t begin, int64_t end) {
    if (begin >= 0 && begin < end && end <= n_tokens) return;
    malformed(where_, c10::str(what, " is tokens [", begin, ", ", end, ") of ", n_tokens));
  };
  for (int64_t i = 0; i < size(); ++i) {
    check_rise(c10::str("the context of question ", i), context[i], context[i + 1]);
    for (int64_t j = 0; j < n_options(); ++j) {
      check_rise(c10::str("option ", j, " of question ", i), option[i * stride + j],
                 option[i * stride + j + 1]);
    }
    if (gold[i] >= 0 && gold[i] < n_options()) continue;
    malformed(where_, c10::str("gold of question ", i, " is ", gold[i], ", expected 0 to ",
                               n_options() - 1));
  }
}

Choice Choices::operator[](int64_t i) const {
  const auto between = [&](const at::Tensor& offsets, int64_t k) {
    return tokens_.slice(0, offsets[k].item<int64_t>(), offsets[k + 1].item<int64_t>());
  };
  Choice choice{between(context_offsets_, i), {}, gold_[i].item<int64_t>()};
  for (int64_t j = 0; j < n_options(); ++j) {
    choice.options.push_back(between(option_offsets_[i], j));
  }
  return choice;
}

int64_t Choices::longest() const {
  const auto contexts = context_offsets_.diff().unsqueeze(-1);
  return (contexts + option_offsets_.diff()).max().item<int64_t>();
}

void Choices::check_fit(int64_t vocab_size, int64_t max_seq_len) const {
  const auto max_id = tokens_.max().item<int64_t>();
  if (max_id >= vocab_size) refuse_id(where_, max_id, vocab_size);
  if (longest() <= max_seq_len + 1) return;
  throw Error(where_,
              c10::str("has a context and option of ", longest(),
                       " tokens, the model's context is ", max_seq_len),
              "Make shorter questions with tools/prepare_data.py.");
}

TokenData TokenData::open(const std::filesystem::path& path) {
  const auto file = Hdf5File::open(path);
  TokenData data;
  data.path_ = path;
  const auto version = required_integer(file, "format_version", 0, INT64_MAX);
  if (version != kFormatVersion) {
    malformed(file.where(),
              c10::str("format_version is ", version, ", this program reads ", kFormatVersion));
  }
  data.vocab_size_ = required_integer(file, "vocab_size", 1, int64_t{1} << 32);
  data.eos_id_ = required_integer(file, "eos_id", 0, data.vocab_size_ - 1);
  data.tokenizer_ = file.string_attribute("/", "tokenizer").value_or("");
  data.source_ = file.string_attribute("/", "source").value_or("");
  data.special_tokens_ = file.string_attribute("/", "special_tokens").value_or("");
  data.bos_ = file.string_attribute("/", "bos").value_or("");
  for (const auto& name : file.members("/")) {
    if (name == kChoicesGroup) {
      data.has_choices_ = true;
    } else if (file.exists("/" + name + "/tokens")) {
      data.splits_.push_back(TokenSplit(file, name));
    }
  }
  if (data.splits_.empty())
    malformed(file.where(), "has no split (a group such as /train with tokens)");
  return data;
}

const TokenSplit& TokenData::split(const std::string& name) const {
  std::string names;
  for (const auto& split : splits_) {
    if (split.name() == name) return split;
    names += (names.empty() ? "" : ", ") + split.name();
  }
  throw Error(path_.string(), "has no split " + name, "It has " + names + ".");
}

void TokenData::check_vocabulary(const TokenSplit& split, int64_t model_vocab_size) const {
  if (vocab_size_ > model_vocab_size) {
    throw Error(
        path_.string(),
        c10::str("vocab_size (", vocab_size_, ") is above the model's (", model_vocab_size, ")"),
        "Use token data made with the model's tokenizer.");
  }
  split.check_ids(model_vocab_size);
}

}  // namespace regroup
