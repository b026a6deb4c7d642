// tools/verbs/verbs.h: what `regroup VERB` can be; the table itself stands in tools/regroup.cpp.
#pragma once

#include <string>
#include <vector>

#include "framework/errors/error.h"

namespace regroup {

/// Every verb takes the words behind it and returns the program's exit code. Results go to stdout;
/// whatever stops it is thrown.
using VerbFunction = ExitCode (*)(const std::vector<std::string>& arguments);

ExitCode run_pretrain(const std::vector<std::string>& arguments);
ExitCode run_uptrain(const std::vector<std::string>& arguments);
ExitCode run_convert(const std::vector<std::string>& arguments);
ExitCode run_eval(const std::vector<std::string>& arguments);
ExitCode run_score(const std::vector<std::string>& arguments);
ExitCode run_generate(const std::vector<std::string>& arguments);
ExitCode run_export(const std::vector<std::string>& arguments);
ExitCode run_bench(const std::vector<std::string>& arguments);
ExitCode run_inspect(const std::vector<std::string>& arguments);
ExitCode run_plan(const std::vector<std::string>& arguments);

/// `regroup --version`: versions of what the binary is made of, and the devices that it sees.
std::string version_text();

}  // namespace regroup
