// models/token_meaning.h: whether the inputs of one job mean the same text by the same token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/model_folder.h"

namespace regroup {

/// What one input of a job says about its token ids.
struct TokenMeaning {
  std::string where;             // file or folder, for messages
  std::string tokenizer;         // the text of tokenizer.json; empty: unknown
  std::vector<int64_t> eos_ids;  // ids that end a text; empty: unknown
  bool is_model = false;
};

/// Reads a model folder: tokenizer.json, and the eos ids of generation_config.json, config.json and
/// tokenizer_config.json together. Throws Error for a file that is not what its name says.
TokenMeaning token_meaning(const ModelFolder& model);
/// Reads a token file's attributes. Throws Error if it cannot be read.
TokenMeaning token_meaning(const std::filesystem::path& token_file);

/// Compares every two inputs: their tokenizers must give the same ids for plain text, and the eos
/// id of token data must be one of the model's. An input without a tokenizer matches everything; a
/// note says so if other inputs have one. Throws a request Error that names both inputs of each
/// mismatch; with allow_other_tokenizer it warns instead. Throws Error for a tokenizer that is not
/// JSON.
void require_same_tokens(const std::vector<TokenMeaning>& inputs, bool allow_other_tokenizer);

/// Which part of two tokenizer.json texts gives plain text other ids; empty if none does. Key
/// order, the order of added tokens, defaults that newer versions of `tokenizers` write out, both
/// spellings of merges, and everything that acts after the split into ids count as equal. where_a,
/// where_b: the files, for the Error if a text is not JSON.
std::string tokenizer_difference(const std::string& a, const std::string& where_a,
                                 const std::string& b, const std::string& where_b);

}  // namespace regroup
