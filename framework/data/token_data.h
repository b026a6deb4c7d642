// framework/data/token_data.h: token files: splits of tokenized documents, and choice questions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "framework/files/hdf5_file.h"

namespace regroup {

/// One split: the concatenated tokens of its documents.
class TokenSplit {
 public:
  const std::string& name() const { return name_; }
  /// "file: /val", for messages.
  const std::string& where() const { return where_; }
  int64_t n_tokens() const { return tokens_.shape()[0]; }
  int64_t n_documents() const { return offsets_.numel() - 1; }
  /// Tokens that a model predicts: all except the first of each document.
  int64_t n_predicted() const;
  /// int64 [n_documents + 1]: the start of each document, and the total at the end.
  const at::Tensor& offsets() const { return offsets_; }
  /// The size of the tokens' text; nullopt where the file does not have it.
  std::optional<int64_t> bytes() const { return bytes_; }

  /// Tokens [begin, begin + count), which must exist -> int64 [count]. Thread safe.
  at::Tensor read(int64_t begin, int64_t count) const;

  /// The largest id. The first call reads the whole split.
  int64_t max_id() const;
  /// A hash of every id and offset in 16 hexadecimal digits, which shows on resume whether the data
  /// are the same; it does not protect against forgery. The first call reads the whole split.
  std::string fingerprint() const;
  /// Throws Error where an id is vocab_size or more.
  void check_ids(int64_t vocab_size) const;

 private:
  friend class TokenData;
  TokenSplit(const Hdf5File& file, const std::string& name);
  struct Scan;
  const Scan& scan() const;

  std::string name_;
  std::string where_;
  Hdf5Dataset tokens_;
  at::Tensor offsets_;
  std::optional<int64_t> bytes_;
  mutable std::shared_ptr<const Scan> scan_;
};

/// One multiple-choice question: which option continues the context?
struct Choice {
  at::Tensor context;               // int64 [context length], at least one token
  std::vector<at::Tensor> options;  // int64 [option length] each, at least one token
  int64_t gold;                     // index of the correct option
};

/// Questions from the group /choices: `tokens` holds all contexts, then all options; context i is
/// tokens[context_offsets[i]:context_offsets[i + 1]], option j of question i is
/// tokens[option_offsets[i, j]:option_offsets[i, j + 1]].
class Choices {
 public:
  /// Throws Error when the file has no questions or they are malformed.
  static Choices open(const std::filesystem::path& file);

  const std::string& where() const { return where_; }
  int64_t size() const { return gold_.numel(); }
  int64_t n_options() const { return option_offsets_.size(1) - 1; }
  Choice operator[](int64_t i) const;
  /// Throws Error where an id is vocab_size or more, or a context with an option is longer than
  /// max_seq_len + 1 tokens (the last token is only predicted).
  void check_fit(int64_t vocab_size, int64_t max_seq_len) const;

 private:
  void check(std::optional<int64_t> announced_n_options) const;
  void check_ranges() const;
  int64_t longest() const;

  std::string where_;
  at::Tensor tokens_;           // int64, all in memory, because there are few questions
  at::Tensor context_offsets_;  // int64 [n + 1]
  at::Tensor option_offsets_;   // int64 [n, n_options + 1]
  at::Tensor gold_;             // int64 [n]
};

/// A token file, in the format of tools/prepare_data.py.
class TokenData {
 public:
  /// Checks the format's version, the attributes and every split. Throws Error for a file that is
  /// missing, truncated, malformed, not HDF5, or of another version.
  static TokenData open(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return path_; }
  int64_t vocab_size() const { return vocab_size_; }
  int64_t eos_id() const { return eos_id_; }
  /// The text of tokenizer.json; empty when unknown.
  const std::string& tokenizer() const { return tokenizer_; }
  /// The origin of the text, in words.
  const std::string& source() const { return source_; }
  /// The options --special-tokens ("parse" or "text") and --bos ("auto", "yes" or "no") of
  /// tools/prepare_data.py with which the documents were tokenized; empty when unknown.
  const std::string& special_tokens() const { return special_tokens_; }
  const std::string& bos() const { return bos_; }
  bool has_choices() const { return has_choices_; }
  const std::vector<TokenSplit>& splits() const { return splits_; }

  /// Throws Error, which lists the splits of the file, where this one is missing.
  const TokenSplit& split(const std::string& name) const;

  /// Throws Error where the file's vocabulary, or an id of this split, exceeds the model's.
  void check_vocabulary(const TokenSplit& split, int64_t model_vocab_size) const;

 private:
  std::filesystem::path path_;
  int64_t vocab_size_ = 0;
  int64_t eos_id_ = 0;
  std::string tokenizer_;
  std::string source_;
  std::string special_tokens_;
  std::string bos_;
  bool has_choices_ = false;
  std::vector<TokenSplit> splits_;
};

}  // namespace regroup
