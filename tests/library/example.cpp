// A decoder whose four query heads share two K/V heads, a loss, and twenty training steps.
#include <torch/torch.h>

#include <iostream>

#include "framework/parameters/adamw.h"
#include "models/decoder.h"

int main() {
  regroup::LayerConfig layer;
  layer.attention.n_head = 4;
  layer.attention.n_kv_head = 2;  // 4 would be MHA, 1 MQA
  layer.attention.head_dim = 16;
  layer.attention.rotary = regroup::RotaryConfig{/*dims=*/16};
  layer.attention.scores = regroup::ScoreRule::plain(16);
  layer.mlp.d_ff = 128;
  regroup::DecoderConfig config;
  config.d_model = 64;
  config.vocab_size = 256;
  config.layers = {layer, layer};

  regroup::Decoder decoder(config, torch::TensorOptions().dtype(torch::kFloat32));
  regroup::initialize(decoder, /*seed=*/0);
  decoder.enable_training(/*checkpoint_activations=*/false);
  regroup::AdamW optimizer(decoder.blocks(), {});

  torch::manual_seed(0);
  const auto tokens = torch::randint(config.vocab_size, {8, 33},
                                     torch::kInt64);  // 8 sequences, 32 predictions each
  double first_loss = 0, loss = 0;
  for (int step = 0; step < 20; ++step) {
    decoder.zero_gradients();
    const auto mean_loss = decoder.loss(tokens, /*scale=*/1.0 / (8 * 32));
    mean_loss.backward();
    optimizer.step(/*lr=*/3e-3, /*gradient_scale=*/1.0);
    loss = mean_loss.item<double>();
    if (step == 0) first_loss = loss;
  }
  std::cout << "loss " << first_loss << " -> " << loss << ", " << config.kv_bytes_per_token(4)
            << " K/V bytes a token\n";
  return loss < first_loss ? 0 : 1;
}
