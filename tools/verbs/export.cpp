#include "models/export.h"

#include <iostream>

#include "framework/files/atomic_write.h"
#include "framework/progress/console.h"
#include "framework/tensors/dtype.h"
#include "framework/text/human.h"
#include "models/run_layout.h"
#include "tools/command_line/command_line.h"
#include "tools/verbs/verbs.h"
#include "trainers/model_card.h"
#include "trainers/output_folder.h"

namespace regroup {
namespace {

void note_layout(const ModelFolder& source, ExportLayout layout) {
  const auto config = exported_config(source, layout);
  const auto heads = kv_heads_text(config.n_kv_head());
  if (layout == ExportLayout::kExpanded && config == source.config())
    note(c10::str("every layer has ", heads, " K/V heads already: nothing is expanded"));
  if (const auto& form = deployable_form(source.family(), config); &form != &source.family()) {
    note(c10::str(source.family().architecture, " has no field for ", heads,
                  " K/V heads: written as ", form.architecture, " with its ", form.code.file,
                  "; load it with trust_remote_code=True, or take --layout expanded"));
  }
}

void note_unfinished_run(const std::filesystem::path& model) {
  if (!is_run(model) || std::filesystem::exists(model / kFinal)) return;
  note(c10::str(model.string(), " is not finished: this is its newest checkpoint, ",
                resolve_model_path(model).filename().string()));
}

/// In the words of `inspect`.
void print_written(const std::filesystem::path& folder) {
  const auto written = ModelFolder::open(folder);
  std::cout << human_count(static_cast<double>(n_parameters(written.config()))) << " parameters in "
            << dtype_info(written.dtype()).short_name << ", "
            << human_bytes(static_cast<double>(written.bytes())) << ": " << folder.string() << "\n";
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
  note_unfinished_run(model_path);
  note_layout(source, plan.layout);
  const auto card = model_card(source, plan, model_name(to));
  AtomicFolder folder(to);
  export_model(source, plan, folder.path());
  write_file_atomically(folder.path() / kModelCard, card);
  force ? folder.commit_replacing() : folder.commit();
  print_written(to);
  return ExitCode::kDone;
}

}  // namespace regroup
