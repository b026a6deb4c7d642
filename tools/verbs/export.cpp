#include "models/export.h"

#include <iostream>

#include "framework/files/atomic_write.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"
#include "trainers/output_folder.h"

namespace regroup {
namespace {

int64_t folder_bytes(const std::filesystem::path& folder) {
  int64_t total = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) total += static_cast<int64_t>(entry.file_size());
  return total;
}

}  // namespace

ExitCode run_export(const std::vector<std::string>& arguments) {
  std::filesystem::path model_path, to;
  ExportPlan plan;
  ByteCount shard{kDefaultShardBytes};
  bool force = false;
  CommandLine line(
      {.verb = "export",
       .usage = "--model MODEL --to DIR [options]",
       .summary = "Writes a deployable model.",
       .example = "regroup export --model runs/gqa2/final --to gqa2-bf16 --dtype bf16"});
  line.add("model", &model_path, "the model").shown_as("MODEL").required();
  line.add("to", &to, "folder to write").shown_as("DIR").required();
  line.add(
      "format", &plan.format, "safetensors in Hugging Face layout, or one model.h5",
      EnumNames<ExportFormat>{{"hf", ExportFormat::kHuggingFace}, {"hdf5", ExportFormat::kHdf5}});
  line.add("layout", &plan.layout,
           "expanded repeats K/V heads until all layers have the same number",
           EnumNames<ExportLayout>{{"grouped", ExportLayout::kGrouped},
                                   {"expanded", ExportLayout::kExpanded}});
  std::string dtype;
  line.add("dtype", &dtype, "dtype of the weights (default: each keeps its own)",
           std::vector<std::string>{"bf16", "fp16", "fp32"});
  line.add("max-shard-size", &shard, "largest safetensors file").shown_as("5GB");
  line.add_force(&force);
  line.add_quiet();
  if (!line.parse(arguments)) return ExitCode::kDone;

  check_output_folder(to, force, {model_path});
  const auto source = ModelFolder::open(model_path);
  if (!dtype.empty()) plan.dtype = dtype_from_name(dtype);
  plan.max_shard_bytes = shard.bytes;
  check_export(source, plan);
  if (plan.layout == ExportLayout::kExpanded && source.config().uniform_kv_heads())
    note(c10::str("every layer has ", source.config().n_kv_head[0],
                  " K/V heads already: nothing is expanded"));
  AtomicFolder folder(to);
  export_model(source, plan, folder.path());
  force ? folder.commit_replacing() : folder.commit();
  std::cout << human_count(static_cast<double>(source.config().n_parameters())) << " parameters in "
            << dtype_info(plan.dtype.value_or(source.dtype())).short_name << ", "
            << human_bytes(static_cast<double>(folder_bytes(to))) << ": " << to.string() << "\n";
  return ExitCode::kDone;
}

}  // namespace regroup
