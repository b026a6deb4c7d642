// models/companion_files.h: the files of a model folder that travel with a model made from it:
// everything that describes neither its weights nor its training.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace regroup {

/// Copies the files of a model folder, subfolders included, into the folder `to`. What stays
/// behind: `replaced` (paths in the folder that the new model has its own of, such as config.json
/// and the weights); other weights and the files that describe them; training states and logs;
/// model cards and pictures; model code, which belongs to the folder's own config.json; hidden
/// files; whatever is larger than a tokenizer can be. A subfolder that holds weights, a training
/// state or very many files stays behind whole. A link counts as the file or folder that it points
/// at. -> what stayed behind except `replaced` and our own training states, sorted, folders with a
/// final slash. Throws Error for a file that cannot be read or written.
std::vector<std::string> copy_companion_files(const std::filesystem::path& from,
                                              const std::filesystem::path& to,
                                              const std::set<std::string>& replaced);

}  // namespace regroup
