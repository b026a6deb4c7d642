// tools/verbs/verbs.h: the functions behind `regroup VERB`; their table is in tools/regroup.cpp.
#pragma once

#include <string>
#include <vector>

#include "framework/errors/error.h"

namespace regroup {

/// A verb takes the words after its name and returns the program's exit code. Results go to stdout;
/// failures are thrown.
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

/// `regroup --version`: versions of the libraries, CPU capability and visible devices.
std::string version_text();

}  // namespace regroup
