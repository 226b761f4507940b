-- An installation at revision 0023, made by commit b1df1697, after the browser journey: data, three runs, votes, an endpoint.
-- Metric points, items of evaluations and log lines are thinned out.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0023');
CREATE TABLE alert_deliveries (
	id VARCHAR(12) NOT NULL, 
	alert_id VARCHAR(12) NOT NULL, 
	channel VARCHAR(10) NOT NULL, 
	message JSON NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	next_at DATETIME, 
	sent_at DATETIME, 
	problem TEXT NOT NULL, 
	CONSTRAINT pk_alert_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_alert_deliveries_alert_id FOREIGN KEY(alert_id) REFERENCES alerts (id) ON DELETE CASCADE
);
CREATE TABLE alerts (
	id VARCHAR(12) NOT NULL, 
	fingerprint VARCHAR(200) NOT NULL, 
	kind VARCHAR(30) NOT NULL, 
	severity VARCHAR(10) NOT NULL, 
	message TEXT NOT NULL, 
	opened_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	resolved_at DATETIME, 
	sent_at DATETIME, 
	problem TEXT NOT NULL, 
	CONSTRAINT pk_alerts PRIMARY KEY (id)
);
CREATE TABLE aliases (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	checkpoint_id VARCHAR(12), 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (id), 
	CONSTRAINT fk_aliases_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_aliases_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_aliases_name UNIQUE (name)
);
CREATE TABLE analyses (
	id VARCHAR(12) NOT NULL, 
	kind VARCHAR(30) NOT NULL, 
	job_id VARCHAR(12), 
	dataset_version_id VARCHAR(12), 
	tokenizer_id VARCHAR(12), 
	checkpoint_id VARCHAR(12), 
	other_checkpoint_id VARCHAR(12), 
	config JSON NOT NULL, 
	result JSON NOT NULL, 
	folder VARCHAR(300), 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_analyses PRIMARY KEY (id), 
	CONSTRAINT fk_analyses_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_analyses_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_analyses_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id), 
	CONSTRAINT fk_analyses_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_analyses_other_checkpoint_id FOREIGN KEY(other_checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_analyses_tokenizer_id FOREIGN KEY(tokenizer_id) REFERENCES tokenizers (id), 
	CONSTRAINT uq_analyses_job_id UNIQUE (job_id)
);
CREATE TABLE answer_ratings (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	completion_id VARCHAR(12) NOT NULL, 
	rater_id VARCHAR(12) NOT NULL, 
	revision INTEGER NOT NULL, 
	value INTEGER NOT NULL, 
	note TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_answer_ratings PRIMARY KEY (id), 
	CONSTRAINT fk_answer_ratings_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_answer_ratings_completion_id FOREIGN KEY(completion_id) REFERENCES completions (id), 
	CONSTRAINT fk_answer_ratings_rater_id FOREIGN KEY(rater_id) REFERENCES raters (id), 
	CONSTRAINT uq_answer_ratings_completion_id_rater_id_revision UNIQUE (completion_id, rater_id, revision)
);
CREATE TABLE "api_keys" (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	key_hash VARCHAR(64) NOT NULL, 
	hint VARCHAR(8) NOT NULL, 
	user_id VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	last_used_at DATETIME, 
	revoked_at DATETIME, 
	scopes JSON DEFAULT '{}' NOT NULL, 
	limits JSON DEFAULT '{}' NOT NULL, 
	expires_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash), 
	CONSTRAINT fk_api_keys_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE architectures (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	config JSON NOT NULL, 
	parameters BIGINT NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	CONSTRAINT pk_architectures PRIMARY KEY (id), 
	CONSTRAINT fk_architectures_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_architectures_name UNIQUE (name)
);
INSERT INTO "architectures" VALUES('kbbwbtz5zzfc','pebblewick-1m','{"family": "llama", "num_layers": 4, "width": 128, "num_heads": 4, "num_kv_heads": 4, "context": 256, "vocab_size": 2048, "feed_forward": 384, "tie_embeddings": true, "norm_eps": 1e-05, "head_size": null, "rope_theta": 10000.0, "local_rope_theta": null, "nope_every": null, "window": null, "global_every": null, "num_experts": null, "experts_per_token": null, "expert_feed_forward": null, "shared_experts": null, "dense_layers": null, "query_rank": null, "kv_rank": null, "rope_head_size": null, "nope_head_size": null, "value_head_size": null}',1115264,NULL,'2026-11-27 03:31:32.821474',NULL);
CREATE TABLE "battles" (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	prompt_id VARCHAR(12) NOT NULL, 
	completion_a_id VARCHAR(12) NOT NULL, 
	completion_b_id VARCHAR(12) NOT NULL, 
	rater_id VARCHAR(12) NOT NULL, 
	pair VARCHAR(25) NOT NULL, 
	sampling_probability FLOAT NOT NULL, 
	served_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	purpose VARCHAR(10) DEFAULT 'vote' NOT NULL, 
	repeat_of_id VARCHAR(12), 
	CONSTRAINT pk_battles PRIMARY KEY (id), 
	CONSTRAINT fk_battles_prompt_id FOREIGN KEY(prompt_id) REFERENCES campaign_prompts (id), 
	CONSTRAINT fk_battles_completion_b_id FOREIGN KEY(completion_b_id) REFERENCES completions (id), 
	CONSTRAINT fk_battles_completion_a_id FOREIGN KEY(completion_a_id) REFERENCES completions (id), 
	CONSTRAINT fk_battles_rater_id FOREIGN KEY(rater_id) REFERENCES raters (id), 
	CONSTRAINT fk_battles_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT uq_battles_rater_id_prompt_id_pair_purpose UNIQUE (rater_id, prompt_id, pair, purpose), 
	CONSTRAINT fk_battles_repeat_of_id FOREIGN KEY(repeat_of_id) REFERENCES battles (id)
);
INSERT INTO "battles" VALUES('8zh8gmyhncc6','82p39y3h9g9v','jnyhhbcy92uh','469a6jnnetdf','kwaybc75j599','local','epjmq3bzh7u5:s9v9zsfbtgwz',1.99999999999999983e-01,'2026-11-27 03:36:21.804661','2026-11-27 15:36:21.804667','vote',NULL);
INSERT INTO "battles" VALUES('yr58ndjfdw5q','82p39y3h9g9v','y8zqqaezz4f8','66paguscvjsa','fjwufwahqp8x','local','epjmq3bzh7u5:s9v9zsfbtgwz',0.25,'2026-11-27 03:36:23.344293','2026-11-27 15:36:23.344295','vote',NULL);
INSERT INTO "battles" VALUES('mfbf4p45fpee','82p39y3h9g9v','svpf8trfnq2r','tr3fppd75huz','vvg46up3m67r','local','epjmq3bzh7u5:s9v9zsfbtgwz',3.33333333333333314e-01,'2026-11-27 03:36:23.915629','2026-11-27 15:36:23.915631','vote',NULL);
INSERT INTO "battles" VALUES('3d2mjeurtjkx','82p39y3h9g9v','u796wzwmdd2y','vyzuy52bp75v','p8njb5bejtnb','local','epjmq3bzh7u5:s9v9zsfbtgwz',0.5,'2026-11-27 03:36:24.413971','2026-11-27 15:36:24.413974','vote',NULL);
INSERT INTO "battles" VALUES('yq7mq3ta8nyv','82p39y3h9g9v','hapq4y6mjv7v','wdkps2rgx2bx','ckvfggh34a7t','local','epjmq3bzh7u5:s9v9zsfbtgwz',1.0,'2026-11-27 03:36:24.921902','2026-11-27 15:36:24.921904','vote',NULL);
CREATE TABLE campaign_prompts (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	position INTEGER NOT NULL, 
	messages JSON NOT NULL, 
	content_hash VARCHAR(64) NOT NULL, category VARCHAR(80) DEFAULT '' NOT NULL, purpose VARCHAR(8) DEFAULT 'vote' NOT NULL, turn VARCHAR(20) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_campaign_prompts PRIMARY KEY (id), 
	CONSTRAINT fk_campaign_prompts_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id)
);
INSERT INTO "campaign_prompts" VALUES('hapq4y6mjv7v','82p39y3h9g9v',0,'[{"role": "user", "content": "Make up a story about Tilda and a storm."}]','5d151975ce318d5dd5c92bbf34aea8e49feea7897f103cf5f9d72fdda6f643c2','','vote','');
INSERT INTO "campaign_prompts" VALUES('u796wzwmdd2y','82p39y3h9g9v',1,'[{"role": "user", "content": "Tell me a funny story about Tobin and Lottie."}]','5eb3cf5955707c87f79d081412e5ed1eef884c8e8c52dbdb933f327de4734233','','vote','');
INSERT INTO "campaign_prompts" VALUES('y8zqqaezz4f8','82p39y3h9g9v',2,'[{"role": "user", "content": "What does Pip dream about?"}]','1c0d3f496bd138ba2964d248af66fe1d695f9429feda59365a013c45d3ad54a7','','vote','');
INSERT INTO "campaign_prompts" VALUES('svpf8trfnq2r','82p39y3h9g9v',3,'[{"role": "user", "content": "Where would you look for Lottie on a Sunday?"}]','14266fadbbcac81224e047e62811082e0d2f4806236d837749b1c9ea9aaf2010','','vote','');
INSERT INTO "campaign_prompts" VALUES('jnyhhbcy92uh','82p39y3h9g9v',4,'[{"role": "user", "content": "Where would you look for Marlo on a Sunday?"}]','de8c3337be36eb60cf5a10b3bc2c2b5055da1da347294c6a7c5a5218be5e1de4','','vote','');
INSERT INTO "campaign_prompts" VALUES('56tp4zwpd2en','qgzcu38f7c5b',0,'[{"role": "user", "content": "What would Corin do with a hundred silver coins?"}]','52870aa179468bef3444b827081a87ac3ff6cfd453edc717cfd85117fa16b091','','vote','');
INSERT INTO "campaign_prompts" VALUES('s3b49p7byjem','qgzcu38f7c5b',1,'[{"role": "user", "content": "I want to cook for Nell. What should I make?"}]','28185e1396be0bb7d3bf2a4b4a119303b7445ffabef8934d8936e6d6518d1a7b','','vote','');
INSERT INTO "campaign_prompts" VALUES('buqek5jzzv9z','qgzcu38f7c5b',2,'[{"role": "user", "content": "What present would Ozzo like?"}]','da7d5f658e291bd44466a3df734e09c24a0c9eff8ea78c5f1668f95d2853f0e8','','vote','');
INSERT INTO "campaign_prompts" VALUES('um2nc699r2ru','qgzcu38f7c5b',3,'[{"role": "user", "content": "Tell me a bedtime story about Rufo."}]','e7d3d8bc67e80b0fe591952ef23a27b49bdbd24276bd2e2fd5ab8a88dd8301a0','','vote','');
INSERT INTO "campaign_prompts" VALUES('pdamef27k65d','qgzcu38f7c5b',4,'[{"role": "user", "content": "Who should Vela invite to a party?"}]','c8fcb22f06146668103f7a60b1d55ca5fd2ecf13794b0b9968f47b66491f0656','','vote','');
CREATE TABLE campaigns (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	config JSON NOT NULL, 
	dataset_version_id VARCHAR(12), 
	parent_id VARCHAR(12), 
	run_id VARCHAR(12), 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	CONSTRAINT pk_campaigns PRIMARY KEY (id), 
	CONSTRAINT fk_campaigns_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_campaigns_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id), 
	CONSTRAINT fk_campaigns_parent_id FOREIGN KEY(parent_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_campaigns_run_id FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT uq_campaigns_name UNIQUE (name), 
	CONSTRAINT uq_campaigns_run_id UNIQUE (run_id)
);
INSERT INTO "campaigns" VALUES('82p39y3h9g9v','Blind round','{"config": {"num_prompts": 5, "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1, "votes_per_rater": 60, "smallest_gap": 35.0}}','9et8ffwzmbnq',NULL,NULL,NULL,'2026-11-27 03:35:45.239167',NULL);
INSERT INTO "campaigns" VALUES('qgzcu38f7c5b','Rematch of Blind round','{"config": {"num_prompts": 5, "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1, "votes_per_rater": 60, "smallest_gap": 35.0}, "held_out": true}','9et8ffwzmbnq','82p39y3h9g9v','tfezwph6n8z4',NULL,'2026-11-27 03:36:32.849845',NULL);
CREATE TABLE checkpoints (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(160) NOT NULL, 
	origin VARCHAR(10) NOT NULL, 
	run_id VARCHAR(12), 
	step INTEGER, 
	parent_id VARCHAR(12), 
	job_id VARCHAR(12), 
	folder VARCHAR(300), 
	source VARCHAR(400) NOT NULL, 
	family VARCHAR(40) NOT NULL, 
	parameters BIGINT, 
	is_adapter BOOLEAN NOT NULL, 
	is_final BOOLEAN NOT NULL, 
	bytes BIGINT NOT NULL, 
	metrics JSON NOT NULL, 
	facts JSON NOT NULL, 
	notes TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	deleted_at DATETIME, 
	CONSTRAINT pk_checkpoints PRIMARY KEY (id), 
	CONSTRAINT fk_checkpoints_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_checkpoints_parent_id FOREIGN KEY(parent_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_checkpoints_run_id FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT uq_checkpoints_name UNIQUE (name), 
	CONSTRAINT uq_checkpoints_run_id_step UNIQUE (run_id, step)
);
INSERT INTO "checkpoints" VALUES('tzuhjq26rh7m','First stories · step 80','run','c38scfb468wq',80,NULL,'pz6j9y639aqj','runs/c38scfb468wq/checkpoints/step-000080','','llama',1115264,0,1,13547380,'{"train_loss": 3.4989120960235596, "val_loss": 3.4611310672480613, "val_bpb": 1.1739274246258251}','{"context": 256, "vocab_size": 2048}','','2026-11-27 03:34:01.550404',NULL,NULL);
INSERT INTO "checkpoints" VALUES('4hzvzpz3kr4w','First chat · step 30','run','6huarnusn4j9',30,'tzuhjq26rh7m','dcxyenme2abe','runs/6huarnusn4j9/checkpoints/step-000030','','llama',1115264,0,1,13548777,'{"train_loss": 3.1485345363616943, "val_loss": 3.094708384168076}','{"context": 256, "vocab_size": 2048}','','2026-11-27 03:35:17.620196',NULL,NULL);
INSERT INTO "checkpoints" VALUES('2whdstm5jprp','DPO on votes of Blind round · step 10','run','tfezwph6n8z4',10,'tzuhjq26rh7m','efj38rc6jsff','runs/tfezwph6n8z4/checkpoints/step-000010','','llama',1197184,1,1,1159662,'{"train_loss": 0.5814650654792786, "rewards/chosen": 0.19752755761146545, "rewards/rejected": -0.045890286564826965, "rewards/accuracies": 1.0, "rewards/margins": 0.24341782927513123, "val_loss": 0.7997713088989258, "val_rewards/chosen": -0.046949006617069244, "val_rewards/rejected": 0.15601806342601776, "val_rewards/accuracies": 0.0, "val_rewards/margins": -0.2029670774936676}','{"context": 256, "vocab_size": 2048}','','2026-11-27 03:36:51.759665',NULL,NULL);
CREATE TABLE "completions" (
	id VARCHAR(12) NOT NULL, 
	prompt_id VARCHAR(12) NOT NULL, 
	contestant_id VARCHAR(12) NOT NULL, 
	text TEXT NOT NULL, 
	text_hash VARCHAR(64) NOT NULL, 
	tokens INTEGER NOT NULL, 
	facts JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	sample INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_completions PRIMARY KEY (id), 
	CONSTRAINT fk_completions_prompt_id FOREIGN KEY(prompt_id) REFERENCES campaign_prompts (id), 
	CONSTRAINT fk_completions_contestant_id FOREIGN KEY(contestant_id) REFERENCES contestants (id), 
	CONSTRAINT uq_completions_prompt_id_contestant_id_sample UNIQUE (prompt_id, contestant_id, sample)
);
INSERT INTO "completions" VALUES('66paguscvjsa','y8zqqaezz4f8','s9v9zsfbtgwz',' "I will not know called Dunn. Suki''s favourite food is a snowman. They belongs to dance. Hazel fell that a hen got it had Fenn, but Lottie slept would eaten Fenn. That year, and the cobbler to Nell. Fenn likes to the ground, and the cave and could ill. "What was jokes," said. He has a afraid of Pebblewick. Juno likes to fisher, and his star. It to the meadow is a good birthday. When evening, the','e9f2529f3b1653de3c464f086a1548c8215683bd586c5a1c5d816f954ca7bfe6',96,'{"finish_reason": "length"}','2026-11-27 03:36:03.130863',0);
INSERT INTO "completions" VALUES('p8njb5bejtnb','u796wzwmdd2y','s9v9zsfbtgwz',' Fenn''s favourite food is a shepherd, and behind the cat. Jingle, and Pip took a snow? Marlo''s best friend. Then it was a cat. " But the harbour," said Hazel. Bramble. Nell is afraid of yellow Pebblewick. They live in the orchard. Her favourite food is a little. Nell likes to Rufo. "Let you can not understand along as fisher," said Olla. "Then you need a one," said asked. He, the crow was Mira','10bc5612a86ec3d0931737dcce1197e256ed1e4c64db651ecae82e23b8b810d7',96,'{"finish_reason": "length"}','2026-11-27 03:36:03.133100',0);
INSERT INTO "completions" VALUES('tr3fppd75huz','svpf8trfnq2r','s9v9zsfbtgwz',' "a that you need a snail," said Clover.','9c29bbd63c9ac80ee2988afa086b764006048c46882626af9a0bb1da659d2a53',12,'{"finish_reason": "stop"}','2026-11-27 03:36:03.150617',0);
INSERT INTO "completions" VALUES('469a6jnnetdf','jnyhhbcy92uh','s9v9zsfbtgwz',' "What is a dog," said Juno.','77dbc9bce052cb8eb4f2e6ba26cbfdd72d9427d5bbd00a9c9291294b4aea7132',10,'{"finish_reason": "stop"}','2026-11-27 03:36:03.151664',0);
INSERT INTO "completions" VALUES('wdkps2rgx2bx','hapq4y6mjv7v','s9v9zsfbtgwz',' "I am was it!" said Nell, and her day, and they around the cave. They was a little and Hazel, and Hazel''s favourite food is a broken. The toymaker all the lighthouse, but he said''s." "It is a gardener." They windy best friend is a the home. " put the forest was deep," said Pip. In the the cave was Hazel. "I am a weaver was Fenn. Bram ate a weaver, but he said loves?"','fef2ab49bb5804758699f2ae4769fa6a6e55dfdce6f58c1692a21464bbae53c4',96,'{"finish_reason": "length"}','2026-11-27 03:36:03.152388',0);
INSERT INTO "completions" VALUES('fjwufwahqp8x','y8zqqaezz4f8','epjmq3bzh7u5','Mira is a tiny.','cdf2ae2f45e7ed1708d3a152725110e60b13d37f74e5e8c0adf1782d4180d19e',6,'{"finish_reason": "stop"}','2026-11-27 03:36:20.867163',0);
INSERT INTO "completions" VALUES('vyzuy52bp75v','u796wzwmdd2y','epjmq3bzh7u5','Dunn is a story shook her hen called Kesh. "Tell time." "You," said Hazel, Juno''s scarf is afraid of Pebblewick.','63e7d7848d35a555b09f4fdf64f4acea5b6fce153c9400ce31477098c7dcaf4a',29,'{"finish_reason": "stop"}','2026-11-27 03:36:20.879266',0);
INSERT INTO "completions" VALUES('vvg46up3m67r','svpf8trfnq2r','epjmq3bzh7u5','Lottie lives in the valley. "I will tell you can hear black sheep.','51faf5b793c20985598a35f97200ef6470c08f5be5892df231261ad5d301c07e',17,'{"finish_reason": "stop"}','2026-11-27 03:36:20.880411',0);
INSERT INTO "completions" VALUES('kwaybc75j599','jnyhhbcy92uh','epjmq3bzh7u5','Hazel is a mouse.','17535403468fba79b978eb2b711ba551c2eb48aadf04616a48c2b9849848d9cc',6,'{"finish_reason": "stop"}','2026-11-27 03:36:20.881231',0);
INSERT INTO "completions" VALUES('ckvfggh34a7t','hapq4y6mjv7v','epjmq3bzh7u5','Once upon a lamplighter of Pebblewick lives in the mill. "I will day, the marsh is a clockmaker. In the cat brought a path and the marsh, they went.','9a542b41aeccebc3ec1ebd142881fdac1e9ac2b2b1757731ab3213d3105c79df',36,'{"finish_reason": "stop"}','2026-11-27 03:36:20.898785',0);
INSERT INTO "completions" VALUES('9u76zxjbge92','buqek5jzzv9z','xkg6a48zgcsz',' Lottie''s favourite food was kitchen, go to the harbour. TheWho lives in the door and it, the mill was Suki. "That is a purple me," said Hazel. "Hold the mouse called Mira. "You!" said asked. If you need a miller, and likes to the valley, and not know a paper. The quiet forest was cobbler," said Tobin. She has a pea shy. The king of the marsh, and Tilda likes to the meadow. "','90f2c08dc717c9d3c18cec3a23043f8a8ddaec57d120e74927f77e691b029999',96,'{"finish_reason": "length"}','2026-11-27 03:37:11.610019',0);
INSERT INTO "completions" VALUES('u2atcf3wsu2a','56tp4zwpd2en','xkg6a48zgcsz',' Tobin loves tell you know. "I am a not not orange. Suki!" said Wanda. "She he she he said. Olla likes to draw. "I am went," said Dusty. One His best friend is of Pebblewick. "I am a crow!" said Wanda. It heard afraid of the meadow, and went home to the meadow. Her favourite food is a them. Tobin is Wanda. "I hear awake as not eaten lives in the cave. Juno has a','a2b1e944694cb8d8140f679b65714c9d99c831770c20f540037a1b380ac69129',96,'{"finish_reason": "length"}','2026-11-27 03:37:11.611269',0);
INSERT INTO "completions" VALUES('mg974kfvrvcq','um2nc699r2ru','xkg6a48zgcsz',' "And warm the forest there was white hear hear know Tobin. It am a goat. "What us not not know laugh. It was hear Suki. "I am lit a leaf," said he she said: Vela to fly. "It is It from the carpenter, and he he said. Juno has a tiny place. So he did not this pie, and nobody said Juno. That day, and is afraid of them. Marlo made a dog a rabbit jokes. "','80275bcd3211cc587711f78fe82f5bebeb8b79ac597e38a5cf8d8528f73fb0e7',96,'{"finish_reason": "length"}','2026-11-27 03:37:11.618374',0);
INSERT INTO "completions" VALUES('eqb4hubq6eze','pdamef27k65d','xkg6a48zgcsz',' Vela the rabbit on it Dunn, the fisher was the mouse, and her the meadow and and because.','7f91898590a2d819d8f0c93ca65fe080bef0a9c3a61834c03ce19c15878804d8',22,'{"finish_reason": "stop"}','2026-11-27 03:37:11.619171',0);
INSERT INTO "completions" VALUES('wffw43zx2rve','s3b49p7byjem','xkg6a48zgcsz',' Corin''s best friend is a tower. One ladder took they they come to She and Kesh. One toolbox is a cat, the mill was potato! Juno all morning, Kesh Marlo likes to Wanda, and lives in the harbour. " quiet," said it was apple called One for a everything. "What must tart. She is a red pudding. Rufo was Ozzo is a duck, a race in the mill.','e3d3b8023e9e2639758caf3483001dc5cc76c031429f46e18705df1c9711046f',84,'{"finish_reason": "stop"}','2026-11-27 03:37:11.619824',0);
INSERT INTO "completions" VALUES('b773mmyqychg','buqek5jzzv9z','jp3vkkqwnqgx',' evening, who is a purple. "It is a good pie, is a cat.','68a69e2ffcba25b953ed1830d442d4e6b263f9d3830d3a2ec8567a65b5012794',19,'{"finish_reason": "stop"}','2026-11-27 03:37:48.582874',0);
INSERT INTO "completions" VALUES('x22gzgdwt5sf','56tp4zwpd2en','jp3vkkqwnqgx',' in the beekeeper, and Marlo has a hidden apron.','61504ab51dec5aa78a7bde333ab93a38b7a9b2ff19de5dcb59d171b91099db8d',12,'{"finish_reason": "stop"}','2026-11-27 03:37:48.583889',0);
INSERT INTO "completions" VALUES('bfczfsp4htne','um2nc699r2ru','jp3vkkqwnqgx',' the evening and Suki, but Suki loves a day. And is plum. Lottie morning, the mill night the fox, and else. He likes to her jam. He fell one head.','685e230b1f99dd23fc6c86857ca2554c52ff7e78d7f7c2e42f148ce5d8302b06',39,'{"finish_reason": "stop"}','2026-11-27 03:37:48.584586',0);
INSERT INTO "completions" VALUES('uu6mp27nkwwy','pdamef27k65d','jp3vkkqwnqgx',', and it bread in the first, the second best is is rice seen. "I she said Corin, and Nell is potato. "I sunny you can hear rice toast," said the cat. The wish of of the mill. "I wall," said Lottie, nails and Nell is afraid of Pebblewick. So she said Wanda. "I shouted." Juno Ozzo is called Dusty. In the tower was picnic in the mill. "What blackberry to the marsh," said Kesh.','9e39573f7c92b422814ffacfdc69b17ebd38494c88c8e0427412c0438fe97d88',96,'{"finish_reason": "length"}','2026-11-27 03:37:48.600204',0);
INSERT INTO "completions" VALUES('2k5ftppj593f','s3b49p7byjem','jp3vkkqwnqgx',' is apple called Bramble. "I am you hear purple," said Kesh.','e2bd5b17cf439d98dbb66777a0cf5486049b93222000c439f123be8e51520c37',16,'{"finish_reason": "stop"}','2026-11-27 03:37:48.601599',0);
CREATE TABLE "contestants" (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	checkpoint_id VARCHAR(12), 
	job_id VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	kind VARCHAR(12) DEFAULT 'checkpoint' NOT NULL, 
	label VARCHAR(120) DEFAULT '' NOT NULL, 
	source JSON DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_contestants PRIMARY KEY (id), 
	CONSTRAINT fk_contestants_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_contestants_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_contestants_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT uq_contestants_campaign_id_checkpoint_id UNIQUE (campaign_id, checkpoint_id)
);
INSERT INTO "contestants" VALUES('s9v9zsfbtgwz','82p39y3h9g9v','tzuhjq26rh7m','f7kud82tvrpe','2026-11-27 03:35:45.245416','checkpoint','','{}');
INSERT INTO "contestants" VALUES('epjmq3bzh7u5','82p39y3h9g9v','4hzvzpz3kr4w','74ug6z8chd45','2026-11-27 03:35:45.248438','checkpoint','','{}');
INSERT INTO "contestants" VALUES('xkg6a48zgcsz','qgzcu38f7c5b','tzuhjq26rh7m','p3qbgx2q5ygn','2026-11-27 03:36:32.851255','checkpoint','','{}');
INSERT INTO "contestants" VALUES('jp3vkkqwnqgx','qgzcu38f7c5b','2whdstm5jprp','wfrhhf4xw823','2026-11-27 03:36:52.083555','checkpoint','','{}');
CREATE TABLE conversation_shares (
	id VARCHAR(12) NOT NULL, 
	conversation_id VARCHAR(12) NOT NULL, 
	leaf_id VARCHAR(12) NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	revoked_at DATETIME, 
	CONSTRAINT pk_conversation_shares PRIMARY KEY (id), 
	CONSTRAINT fk_conversation_shares_conversation_id FOREIGN KEY(conversation_id) REFERENCES conversations (id), 
	CONSTRAINT fk_conversation_shares_created_by FOREIGN KEY(created_by) REFERENCES users (id)
);
CREATE TABLE conversations (
	id VARCHAR(12) NOT NULL, 
	user_id VARCHAR(12), 
	title VARCHAR(160) NOT NULL, 
	endpoint VARCHAR(80) NOT NULL, 
	other_endpoint VARCHAR(80), 
	system_prompt TEXT NOT NULL, 
	sampling JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, leaf_id VARCHAR(12), 
	CONSTRAINT pk_conversations PRIMARY KEY (id), 
	CONSTRAINT fk_conversations_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
INSERT INTO "conversations" VALUES('yefejffqqtuu',NULL,'Tell me a story about Mira.','village',NULL,'','{"max_tokens": 160, "temperature": 0.0, "top_p": 0.95, "seed": null}','2026-11-27 03:37:10.498539','2026-11-27 03:37:10.855868',NULL);
CREATE TABLE dataset_versions (
	id VARCHAR(12) NOT NULL, 
	dataset_id VARCHAR(12) NOT NULL, 
	number INTEGER NOT NULL, 
	job_id VARCHAR(12), 
	content_hash VARCHAR(64), 
	folder VARCHAR(300), 
	source VARCHAR(400) NOT NULL, 
	mapping JSON NOT NULL, 
	rows INTEGER NOT NULL, 
	train_rows INTEGER NOT NULL, 
	val_rows INTEGER NOT NULL, 
	rejected_rows INTEGER NOT NULL, 
	rejected JSON NOT NULL, 
	bytes BIGINT NOT NULL, 
	facts JSON NOT NULL, 
	provenance JSON NOT NULL, 
	created_at DATETIME NOT NULL, parent_id VARCHAR(12) CONSTRAINT fk_dataset_versions_parent_id REFERENCES dataset_versions (id), 
	CONSTRAINT pk_dataset_versions PRIMARY KEY (id), 
	CONSTRAINT fk_dataset_versions_dataset_id FOREIGN KEY(dataset_id) REFERENCES datasets (id), 
	CONSTRAINT fk_dataset_versions_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_dataset_versions_dataset_id_number UNIQUE (dataset_id, number)
);
INSERT INTO "dataset_versions" VALUES('99v5ykbtug9n','54k24sr5w46y',1,'7cjpvbbu2s4k','83fda3cf7de126ec24ec541896f56a887b0d7ac3f27e6d5529eec986c69e38dc','datasets/83fda3cf7de126ec','rows.jsonl','{"text": "text"}',2280,2147,133,0,'[]',1356665,'{"text_bytes": 1346284, "unigram_byte_entropy_bits": 4.453553119013055, "columns": ["text"], "reason": "`text` is text", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.583856',NULL);
INSERT INTO "dataset_versions" VALUES('8hbxxjbwczxs','qumzryfabgmt',1,'hwme49nary9b','dc011c04a41882a919fb1ffa50d357ccb6aaddee52ddf46cba7186fe008fb715','datasets/dc011c04a41882a9','rows.jsonl','{"messages": "messages"}',2898,2755,143,0,'[]',561869,'{"text_bytes": 519698, "unigram_byte_entropy_bits": 4.502390228721732, "columns": ["messages"], "reason": "`messages` holds turns (role/content)", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.757553',NULL);
INSERT INTO "dataset_versions" VALUES('f557hqhcyxge','6ms68q5vep8h',1,'hv4n3gv3s242','78598f807e74639f5e84989edd7cd95cac48437ff18d4d1857fef7152e00f692','datasets/78598f807e74639f','rows.jsonl','{"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}',800,760,40,0,'[]',196155,'{"text_bytes": 172426, "unigram_byte_entropy_bits": 4.477160135952095, "columns": ["prompt", "chosen", "rejected"], "reason": "`chosen` and `rejected` are answers to `prompt`", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.800935',NULL);
INSERT INTO "dataset_versions" VALUES('bzm8ggbsd46b','8h7vz6zjssg3',1,'te3sfrf24gfr','5be434ef93cd9ef3f09b60dad160947befb0056e593fe5c9a21a5bb4ff40feef','datasets/5be434ef93cd9ef3','rows.jsonl','{"question": "question", "choices": "choices", "answer": "answer"}',200,200,0,0,'[]',17750,'{"text_bytes": 9571, "unigram_byte_entropy_bits": 4.446604371219776, "columns": ["question", "choices", "answer"], "reason": "`question` with choices in `choices` and the right one in `answer`", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.807904',NULL);
INSERT INTO "dataset_versions" VALUES('4kv72wzhty32','v69bawhhf362',1,'dnxygy7gnssa','a0496116f35649f3178d41ca8b5aba75b27137a8cffc01a408fd2edba636d66a','datasets/a0496116f35649f3','rows.jsonl','{"question": "question", "answers": "answers"}',100,100,0,0,'[]',10174,'{"text_bytes": 6529, "unigram_byte_entropy_bits": 4.5632330508204575, "columns": ["question", "answers"], "reason": "`question` with lists of accepted answers in `answers`", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.813264',NULL);
INSERT INTO "dataset_versions" VALUES('9et8ffwzmbnq','bmm2zqu9efua',1,'jme49f5tdp8y','8cd3cbe718c389e0f2b0070042b59546af6d932f8e00f00f864282bd01c78be2','datasets/8cd3cbe718c389e0','rows.jsonl','{"prompt": "prompt"}',40,40,0,0,'[]',2720,'{"text_bytes": 1400, "unigram_byte_entropy_bits": 4.494311680361838, "columns": ["prompt"], "reason": "`prompt` asks and nothing answers", "files": 1}','{"made_by": "Roundhouse", "from": "the starter content"}','2026-11-27 03:31:32.817365',NULL);
INSERT INTO "dataset_versions" VALUES('p9hyxuc6ecnc','cnr73hrhd4wr',1,'5wx6a5dg9y85','f4d15c92b581845e59f267303a699a7ea00c9a3b04ec92ccd15f0daf27d1f47f','datasets/f4d15c92b581845e','rows.jsonl','{"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}',5,4,1,0,'[]',15752,'{"text_bytes": 1789, "unigram_byte_entropy_bits": 4.468687693772996, "columns": ["prompt", "chosen", "rejected"], "reason": "`chosen` and `rejected` are answers to `prompt`", "files": 1}','{"from": "votes", "campaign_id": "82p39y3h9g9v", "campaign": "Blind round", "contestants": [{"checkpoint_id": "tzuhjq26rh7m", "name": "First stories \u00b7 step 80"}, {"checkpoint_id": "4hzvzpz3kr4w", "name": "First chat \u00b7 step 30"}], "pairs": 5, "mean_agreement": 1.0, "undecided_votes": 0, "split_pairs": 0, "rows": [{"prompt_id": "jnyhhbcy92uh", "chosen": "tzuhjq26rh7m", "rejected": "4hzvzpz3kr4w", "votes": ["qsgh6q23whvn"], "raters": 1, "agreement": 1.0}, {"prompt_id": "y8zqqaezz4f8", "chosen": "tzuhjq26rh7m", "rejected": "4hzvzpz3kr4w", "votes": ["dwyj3whrcpb8"], "raters": 1, "agreement": 1.0}, {"prompt_id": "svpf8trfnq2r", "chosen": "tzuhjq26rh7m", "rejected": "4hzvzpz3kr4w", "votes": ["sm96tdu8kjtt"], "raters": 1, "agreement": 1.0}, {"prompt_id": "u796wzwmdd2y", "chosen": "4hzvzpz3kr4w", "rejected": "tzuhjq26rh7m", "votes": ["agma4fgndr3m"], "raters": 1, "agreement": 1.0}, {"prompt_id": "hapq4y6mjv7v", "chosen": "tzuhjq26rh7m", "rejected": "4hzvzpz3kr4w", "votes": ["8k3sen65p3qg"], "raters": 1, "agreement": 1.0}]}','2026-11-27 03:36:32.789242',NULL);
CREATE TABLE datasets (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	notes TEXT NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	CONSTRAINT pk_datasets PRIMARY KEY (id), 
	CONSTRAINT fk_datasets_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_datasets_name UNIQUE (name)
);
INSERT INTO "datasets" VALUES('54k24sr5w46y','pebblewick-stories','text','Short stories from a made-up village, to pre-train on.',NULL,'2026-11-27 03:31:32.580043',NULL);
INSERT INTO "datasets" VALUES('qumzryfabgmt','pebblewick-chat','chat','Questions about the village and requests for stories, with answers.',NULL,'2026-11-27 03:31:32.752507',NULL);
INSERT INTO "datasets" VALUES('6ms68q5vep8h','pebblewick-preferences','preference','Good and bad answers to the same questions.',NULL,'2026-11-27 03:31:32.799859',NULL);
INSERT INTO "datasets" VALUES('8h7vz6zjssg3','pebblewick-facts','benchmark','Multiple choice: how does the sentence go on? For any network.',NULL,'2026-11-27 03:31:32.807176',NULL);
INSERT INTO "datasets" VALUES('v69bawhhf362','pebblewick-questions','benchmark','Generation: questions in words that no training row uses.',NULL,'2026-11-27 03:31:32.812635',NULL);
INSERT INTO "datasets" VALUES('bmm2zqu9efua','pebblewick-prompts','prompts','Prompts for battles.',NULL,'2026-11-27 03:31:32.816773',NULL);
INSERT INTO "datasets" VALUES('cnr73hrhd4wr','Blind round votes','preference','',NULL,'2026-11-27 03:36:32.786462',NULL);
CREATE TABLE deployments (
	id VARCHAR(12) NOT NULL, 
	endpoint_id VARCHAR(12) NOT NULL, 
	checkpoint_id VARCHAR(12) NOT NULL, 
	num_replicas INTEGER NOT NULL, 
	config JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	stopped_at DATETIME, revision INTEGER DEFAULT '1' NOT NULL, restores INTEGER, role VARCHAR(10) DEFAULT 'stable' NOT NULL, traffic JSON DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_deployments PRIMARY KEY (id), 
	CONSTRAINT fk_deployments_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_deployments_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_deployments_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);
INSERT INTO "deployments" VALUES('aws8hm8tknen','dh7txnvpzrbs','4hzvzpz3kr4w',1,'{}',NULL,'2026-11-27 03:36:55.047530',NULL,1,NULL,'stable','{}');
CREATE TABLE device_uses (
	id INTEGER NOT NULL, 
	job_id VARCHAR(12) NOT NULL, 
	attempt INTEGER NOT NULL, 
	kind VARCHAR(4) NOT NULL, 
	device_name VARCHAR(120) NOT NULL, 
	num_devices INTEGER NOT NULL, 
	hour_usd FLOAT, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	CONSTRAINT pk_device_uses PRIMARY KEY (id), 
	CONSTRAINT fk_device_uses_job_id FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "device_uses" VALUES(1,'7cjpvbbu2s4k',1,'cpu','',1,NULL,'2026-11-27 03:31:59.758699','2026-11-27 03:32:04.540201');
INSERT INTO "device_uses" VALUES(2,'hwme49nary9b',1,'cpu','',1,NULL,'2026-11-27 03:32:00.237807','2026-11-27 03:32:04.207742');
INSERT INTO "device_uses" VALUES(3,'hv4n3gv3s242',1,'cpu','',1,NULL,'2026-11-27 03:32:04.978712','2026-11-27 03:32:08.131563');
INSERT INTO "device_uses" VALUES(4,'te3sfrf24gfr',1,'cpu','',1,NULL,'2026-11-27 03:32:05.176741','2026-11-27 03:32:08.360845');
INSERT INTO "device_uses" VALUES(5,'dnxygy7gnssa',1,'cpu','',1,NULL,'2026-11-27 03:32:08.216788','2026-11-27 03:32:11.335883');
INSERT INTO "device_uses" VALUES(6,'jme49f5tdp8y',1,'cpu','',1,NULL,'2026-11-27 03:32:08.382925','2026-11-27 03:32:10.730459');
INSERT INTO "device_uses" VALUES(7,'fakpdptmn62c',1,'cpu','',1,NULL,'2026-11-27 03:32:10.743627','2026-11-27 03:32:20.473102');
INSERT INTO "device_uses" VALUES(8,'pz6j9y639aqj',1,'cpu','',1,NULL,'2026-11-27 03:32:24.068135','2026-11-27 03:34:01.839399');
INSERT INTO "device_uses" VALUES(9,'dcxyenme2abe',1,'cpu','',1,NULL,'2026-11-27 03:34:05.453498','2026-11-27 03:35:17.798747');
INSERT INTO "device_uses" VALUES(10,'wg4qnx2tsxt2',1,'cpu','',1,NULL,'2026-11-27 03:35:23.855958','2026-11-27 03:35:42.477783');
INSERT INTO "device_uses" VALUES(11,'f7kud82tvrpe',1,'cpu','',1,NULL,'2026-11-27 03:35:45.281746','2026-11-27 03:36:06.439184');
INSERT INTO "device_uses" VALUES(12,'74ug6z8chd45',1,'cpu','',1,NULL,'2026-11-27 03:36:06.460592','2026-11-27 03:36:26.662596');
INSERT INTO "device_uses" VALUES(13,'5wx6a5dg9y85',1,'cpu','',1,NULL,'2026-11-27 03:36:32.830377','2026-11-27 03:36:35.247788');
INSERT INTO "device_uses" VALUES(14,'efj38rc6jsff',1,'cpu','',1,NULL,'2026-11-27 03:36:35.550148','2026-11-27 03:36:52.109296');
INSERT INTO "device_uses" VALUES(15,'p3qbgx2q5ygn',1,'cpu','',1,NULL,'2026-11-27 03:36:52.135730','2026-11-27 03:37:16.028712');
INSERT INTO "device_uses" VALUES(16,'wfrhhf4xw823',1,'cpu','',1,NULL,'2026-11-27 03:37:16.039220','2026-11-27 03:37:53.607997');
INSERT INTO "device_uses" VALUES(17,'wupv2hc58pf2',1,'cpu','',1,NULL,'2026-11-27 03:36:55.511745',NULL);
CREATE TABLE endpoints (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_endpoints PRIMARY KEY (id), 
	CONSTRAINT fk_endpoints_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_endpoints_name UNIQUE (name)
);
INSERT INTO "endpoints" VALUES('dh7txnvpzrbs','village',NULL,'2026-11-27 03:36:55.046658');
CREATE TABLE evaluated_endpoints (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	url VARCHAR(300) NOT NULL, 
	model VARCHAR(200) NOT NULL, 
	config JSON NOT NULL, 
	capabilities JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	CONSTRAINT pk_evaluated_endpoints PRIMARY KEY (id), 
	CONSTRAINT fk_evaluated_endpoints_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_evaluated_endpoints_name_url_model UNIQUE (name, url, model)
);
CREATE TABLE evaluation_items (
	id INTEGER NOT NULL, 
	evaluation_id VARCHAR(12) NOT NULL, 
	item_hash VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	"values" JSON NOT NULL, 
	shown JSON NOT NULL, 
	CONSTRAINT pk_evaluation_items PRIMARY KEY (id), 
	CONSTRAINT fk_evaluation_items_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (id), 
	CONSTRAINT uq_evaluation_items_evaluation_id_item_hash UNIQUE (evaluation_id, item_hash)
);
INSERT INTO "evaluation_items" VALUES(1,'9qp2ay4qjg84','72fef237f6fd443fdde3abd8d43102891c8a79359dd47262a4055758ac5902c0',0,'{"acc": 0.0, "acc_norm": 1.0, "chance": 0.25}','{"question": "Sprout is a", "choices": [" duck", " pony", " dog", " mouse"], "answer": " mouse", "chosen": " dog", "logprobs": [-4.1482, -4.04007, -3.74228, -4.18246], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(2,'9qp2ay4qjg84','2c8e27eda34dc55a63f5c9fdc5cb78b8be5b5e15cb26592a0cccbdbee931d197',1,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Hazel''s book is", "choices": [" orange", " yellow", " purple", " green"], "answer": " green", "chosen": " yellow", "logprobs": [-6.19859, -4.84143, -6.17233, -5.80391], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(3,'9qp2ay4qjg84','7218d940a7981a6b30e755eb3f0e7a05858f7a04c795c96f2c89f0e1e9e20308',2,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Nell''s favourite food is", "choices": [" cheese toast", " pea soup", " gingerbread", " rice pudding"], "answer": " rice pudding", "chosen": " gingerbread", "logprobs": [-9.77224, -6.40223, -5.02541, -9.50916], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(4,'9qp2ay4qjg84','0f5e71cd134a2de5442cfe1309a8f22f8866a9b56335ce1ca0e6c980eebcd5d5',3,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Wanda''s favourite food is", "choices": [" blackberry jam", " mushroom stew", " gingerbread", " plum pie"], "answer": " mushroom stew", "chosen": " gingerbread", "logprobs": [-8.82136, -10.4161, -4.87607, -6.02698], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(5,'9qp2ay4qjg84','b4e37c8338c2f87a72383d6ee7a6f55f1bc0b409108551a8927a5369e76fe053',4,'{"acc": 0.0, "acc_norm": 1.0, "chance": 0.25}','{"question": "In the orchard there is a", "choices": [" brass lamp", " wooden swing", " hidden lake", " rope ladder"], "answer": " wooden swing", "chosen": " rope ladder", "logprobs": [-11.50461, -10.21046, -11.50378, -10.1038], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(6,'9qp2ay4qjg84','f4a111e8eb0e16c15788a49a455c091ac285fd63327c791ddeaafa3940bc2c0e',5,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "In the cave there is a", "choices": [" hidden lake", " stone wheel", " rope ladder", " hollow tree"], "answer": " hidden lake", "chosen": " rope ladder", "logprobs": [-11.48918, -10.15105, -10.02718, -10.65857], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(7,'9qp2ay4qjg84','c6401ce2b50e335274e1264853e4f8d82f4a0674f2f36639fb98ac952749a32d',6,'{"acc": 1.0, "acc_norm": 1.0, "chance": 0.25}','{"question": "The gardener of Pebblewick is", "choices": [" Dunn", " Kesh", " Corin", " Fenn"], "answer": " Corin", "chosen": " Corin", "logprobs": [-3.63832, -3.70572, -3.40827, -3.80529], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(8,'9qp2ay4qjg84','725f8f96f40da6f6850352faac4c8d179b200bab1fe679b5610746708e61c63a',7,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Suki''s sledge is", "choices": [" white", " red", " blue", " black"], "answer": " red", "chosen": " white", "logprobs": [-4.63159, -5.01391, -4.8589, -5.99973], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(9,'9qp2ay4qjg84','da3676905beb116933e62f286848b487c7f76cdbaed3d3ed31805e9cc8bdd6c8',8,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Corin is a", "choices": [" gardener", " messenger", " tailor", " doctor"], "answer": " gardener", "chosen": " messenger", "logprobs": [-4.995, -4.6499, -4.91027, -4.80973], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(10,'9qp2ay4qjg84','9f8b6deae9bbe5a0fd39a4e893dcd1633bd852985f80007922ef6a84deb4c36e',9,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "In the lighthouse there is a", "choices": [" brass lamp", " hidden lake", " wooden swing", " narrow bridge"], "answer": " brass lamp", "chosen": " wooden swing", "logprobs": [-11.47898, -11.45301, -10.17763, -11.79856], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(11,'9qp2ay4qjg84','7f637c70ded30c2ab076d6ad75d5b8ce855fc3a3876ea786f5753ce9b9d7035c',10,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Suki''s favourite food is", "choices": [" cheese toast", " gingerbread", " blackberry jam", " rice pudding"], "answer": " cheese toast", "chosen": " gingerbread", "logprobs": [-9.89235, -5.01897, -9.03783, -9.66708], "tied": 1}');
INSERT INTO "evaluation_items" VALUES(12,'9qp2ay4qjg84','96a01e8056e59de3c2f0d536782f2451ef3ef69a197a0f0adc58d66b309c8acd',11,'{"acc": 0.0, "acc_norm": 0.0, "chance": 0.25}','{"question": "Lottie lives in the", "choices": [" marsh", " lighthouse", " orchard", " forest"], "answer": " forest", "chosen": " marsh", "logprobs": [-2.85142, -3.08133, -3.16168, -3.08426], "tied": 1}');
CREATE TABLE evaluation_tasks (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	text TEXT NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_evaluation_tasks PRIMARY KEY (id), 
	CONSTRAINT fk_evaluation_tasks_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_evaluation_tasks_name UNIQUE (name)
);
CREATE TABLE evaluations (id VARCHAR(12) NOT NULL, checkpoint_id VARCHAR(12), dataset_version_id VARCHAR(12) NOT NULL, kind VARCHAR(20) NOT NULL, config JSON NOT NULL, fingerprint VARCHAR(64) NOT NULL, job_id VARCHAR(12), created_by VARCHAR(12), created_at DATETIME NOT NULL, endpoint_id VARCHAR(12), CONSTRAINT pk_evaluations PRIMARY KEY (id), CONSTRAINT fk_evaluations_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), CONSTRAINT fk_evaluations_created_by FOREIGN KEY(created_by) REFERENCES users (id), CONSTRAINT fk_evaluations_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id), CONSTRAINT fk_evaluations_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), CONSTRAINT fk_evaluations_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES evaluated_endpoints (id));
INSERT INTO "evaluations" VALUES('9qp2ay4qjg84','4hzvzpz3kr4w','bzm8ggbsd46b','multiple_choice','{"config": {"kind": "multiple_choice", "split": "auto", "limit": null, "seed": 1, "shots": 0, "chat": "auto", "windows": "each_window", "max_tokens": 64, "numeric": false, "batch_size": 16}, "settings": {"scoring_version": 1, "kind": "multiple_choice", "dataset_hash": "5be434ef93cd9ef3f09b60dad160947befb0056e593fe5c9a21a5bb4ff40feef", "split": "all", "limit": null, "chat": "auto", "shots": 0}, "facts": {"used_chat_template": false, "unit": "items", "items": 200, "context": 256, "number_format": "float32", "device": "cpu", "chance": 0.25}}','9d3f45e56356acc08c51b04ff750888e3b50e71b2d974571769739f1510d9fbc','wg4qnx2tsxt2',NULL,'2026-11-27 03:35:23.620988',NULL);
CREATE TABLE feedback (
	id VARCHAR(12) NOT NULL, 
	request_id VARCHAR(40) NOT NULL, 
	rating INTEGER, 
	correction TEXT NOT NULL, 
	comment TEXT NOT NULL, 
	source VARCHAR(12) NOT NULL, 
	key_id VARCHAR(12), 
	user_id VARCHAR(12), 
	created_at DATETIME NOT NULL, endpoint VARCHAR(80), checkpoint_id VARCHAR(12), messages JSON, answer TEXT, 
	CONSTRAINT pk_feedback PRIMARY KEY (id), 
	CONSTRAINT fk_feedback_key_id FOREIGN KEY(key_id) REFERENCES api_keys (id), 
	CONSTRAINT fk_feedback_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE frozen_boards (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	document JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_frozen_boards PRIMARY KEY (id), 
	CONSTRAINT fk_frozen_boards_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_frozen_boards_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_frozen_boards_campaign_id_name UNIQUE (campaign_id, name)
);
CREATE TABLE gate_results (
	id VARCHAR(12) NOT NULL, 
	gate_id VARCHAR(12) NOT NULL, 
	checkpoint_id VARCHAR(12) NOT NULL, 
	champion_id VARCHAR(12) NOT NULL, 
	verdict VARCHAR(12) NOT NULL, 
	report JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_gate_results PRIMARY KEY (id), 
	CONSTRAINT fk_gate_results_champion_id FOREIGN KEY(champion_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_gate_results_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_gate_results_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_gate_results_gate_id FOREIGN KEY(gate_id) REFERENCES gates (id)
);
CREATE TABLE gates (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	config JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_gates PRIMARY KEY (id), 
	CONSTRAINT fk_gates_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_gates_name UNIQUE (name)
);
CREATE TABLE gauge_rollups (
	id INTEGER NOT NULL, 
	width_s INTEGER NOT NULL, 
	start DATETIME NOT NULL, 
	subject VARCHAR(120) NOT NULL, 
	name VARCHAR(40) NOT NULL, 
	readings INTEGER NOT NULL, 
	sum FLOAT NOT NULL, 
	maximum FLOAT NOT NULL, 
	CONSTRAINT pk_gauge_rollups PRIMARY KEY (id), 
	CONSTRAINT uq_gauge_rollups_width_s_start_subject_name UNIQUE (width_s, start, subject, name)
);
CREATE TABLE imported_evaluations (
	id VARCHAR(12) NOT NULL, 
	content_hash VARCHAR(64) NOT NULL, 
	source VARCHAR(300) NOT NULL, 
	harness VARCHAR(80) NOT NULL, 
	model VARCHAR(200) NOT NULL, 
	benchmark VARCHAR(160) NOT NULL, 
	scores JSON NOT NULL, 
	config JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_imported_evaluations PRIMARY KEY (id), 
	CONSTRAINT fk_imported_evaluations_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_imported_evaluations_content_hash_benchmark UNIQUE (content_hash, benchmark)
);
CREATE TABLE jobs (
	id VARCHAR(12) NOT NULL, 
	kind VARCHAR(30) NOT NULL, 
	queue VARCHAR(20) NOT NULL, 
	title VARCHAR(200) NOT NULL, 
	status VARCHAR(12) NOT NULL, 
	priority INTEGER NOT NULL, 
	device_request VARCHAR(8) NOT NULL, 
	payload JSON NOT NULL, 
	result JSON NOT NULL, 
	error JSON NOT NULL, 
	attempt INTEGER NOT NULL, 
	lost INTEGER NOT NULL, 
	max_attempts INTEGER NOT NULL, 
	restarts_forever BOOLEAN NOT NULL, 
	idempotency_key VARCHAR(80), 
	depends_on_id VARCHAR(12), 
	stop_request VARCHAR(20), 
	stop_requested_at DATETIME, 
	owner VARCHAR(120), 
	device VARCHAR(20), 
	lease_until DATETIME, 
	not_before DATETIME, 
	published_at DATETIME, 
	events_offset BIGINT NOT NULL, 
	progress JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_jobs_depends_on_id FOREIGN KEY(depends_on_id) REFERENCES jobs (id), 
	CONSTRAINT uq_jobs_idempotency_key UNIQUE (idempotency_key)
);
INSERT INTO "jobs" VALUES('7cjpvbbu2s4k','import_dataset','cpu','Import pebblewick-stories','finished',3,'cpu','{"source": "uploads/ktcj6bedqwes/rows.jsonl", "hub": null, "url": null, "kind": "text", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "text", "mapping": {"text": "text"}, "rows": 2280, "train_rows": 2147, "val_rows": 133, "rejected_count": 0, "rejected": [], "content_hash": "83fda3cf7de126ec24ec541896f56a887b0d7ac3f27e6d5529eec986c69e38dc", "folder": "datasets/83fda3cf7de126ec", "bytes": 1356665, "text_bytes": 1346284, "columns": ["text"], "unigram_byte_entropy_bits": 4.453553119013055, "reason": "`text` is text", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.54, "reporter_cpu_s": 0.0001699629999999397, "version_id": "99v5ykbtug9n", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-stories',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,848,'{"done": 1389038, "total": 1389038, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750323.3380256}',NULL,'2026-11-27 03:31:32.581277','2026-11-27 03:31:59.758699','2026-11-27 03:32:04.540201');
INSERT INTO "jobs" VALUES('hwme49nary9b','import_dataset','cpu','Import pebblewick-chat','finished',3,'cpu','{"source": "uploads/yxhfrufmtss3/rows.jsonl", "hub": null, "url": null, "kind": "chat", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "chat", "mapping": {"messages": "messages"}, "rows": 2898, "train_rows": 2755, "val_rows": 143, "rejected_count": 0, "rejected": [], "content_hash": "dc011c04a41882a919fb1ffa50d357ccb6aaddee52ddf46cba7186fe008fb715", "folder": "datasets/dc011c04a41882a9", "bytes": 561869, "text_bytes": 519698, "columns": ["messages"], "unigram_byte_entropy_bits": 4.502390228721732, "reason": "`messages` holds turns (role/content)", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.59, "reporter_cpu_s": 0.0001842650000001278, "version_id": "8hbxxjbwczxs", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-chat',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,900,'{"done": 796192, "total": 796192, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750322.7816951}',NULL,'2026-11-27 03:31:32.753094','2026-11-27 03:32:00.237807','2026-11-27 03:32:04.207742');
INSERT INTO "jobs" VALUES('hv4n3gv3s242','import_dataset','cpu','Import pebblewick-preferences','finished',3,'cpu','{"source": "uploads/7pms2uugsg39/rows.jsonl", "hub": null, "url": null, "kind": "preference", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "preference", "mapping": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, "rows": 800, "train_rows": 760, "val_rows": 40, "rejected_count": 0, "rejected": [], "content_hash": "78598f807e74639f5e84989edd7cd95cac48437ff18d4d1857fef7152e00f692", "folder": "datasets/78598f807e74639f", "bytes": 196155, "text_bytes": 172426, "columns": ["prompt", "chosen", "rejected"], "unigram_byte_entropy_bits": 4.477160135952095, "reason": "`chosen` and `rejected` are answers to `prompt`", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.51, "reporter_cpu_s": 0.0001451960000000141, "version_id": "f557hqhcyxge", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-preferences',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,979,'{"done": 291454, "total": 291454, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750327.5143418}',NULL,'2026-11-27 03:31:32.800351','2026-11-27 03:32:04.978712','2026-11-27 03:32:08.131563');
INSERT INTO "jobs" VALUES('te3sfrf24gfr','import_dataset','cpu','Import pebblewick-facts','finished',3,'cpu','{"source": "uploads/qz7uu4pdm6pp/rows.jsonl", "hub": null, "url": null, "kind": "benchmark", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "benchmark", "mapping": {"question": "question", "choices": "choices", "answer": "answer"}, "rows": 200, "train_rows": 200, "val_rows": 0, "rejected_count": 0, "rejected": [], "content_hash": "5be434ef93cd9ef3f09b60dad160947befb0056e593fe5c9a21a5bb4ff40feef", "folder": "datasets/5be434ef93cd9ef3", "bytes": 17750, "text_bytes": 9571, "columns": ["question", "choices", "answer"], "unigram_byte_entropy_bits": 4.446604371219776, "reason": "`question` with choices in `choices` and the right one in `answer`", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.53, "reporter_cpu_s": 0.00015499200000013147, "version_id": "bzm8ggbsd46b", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-facts',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1012,'{"done": 21371, "total": 21371, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750327.7383547}',NULL,'2026-11-27 03:31:32.807450','2026-11-27 03:32:05.176741','2026-11-27 03:32:08.360845');
INSERT INTO "jobs" VALUES('dnxygy7gnssa','import_dataset','cpu','Import pebblewick-questions','finished',3,'cpu','{"source": "uploads/wunwr6xdcj9e/rows.jsonl", "hub": null, "url": null, "kind": "benchmark", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "benchmark", "mapping": {"question": "question", "answers": "answers"}, "rows": 100, "train_rows": 100, "val_rows": 0, "rejected_count": 0, "rejected": [], "content_hash": "a0496116f35649f3178d41ca8b5aba75b27137a8cffc01a408fd2edba636d66a", "folder": "datasets/a0496116f35649f3", "bytes": 10174, "text_bytes": 6529, "columns": ["question", "answers"], "unigram_byte_entropy_bits": 4.5632330508204575, "reason": "`question` with lists of accepted answers in `answers`", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.43, "reporter_cpu_s": 0.0001088719999999821, "version_id": "4kv72wzhty32", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-questions',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,961,'{"done": 10329, "total": 10329, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750330.6691852}',NULL,'2026-11-27 03:31:32.812867','2026-11-27 03:32:08.216788','2026-11-27 03:32:11.335883');
INSERT INTO "jobs" VALUES('jme49f5tdp8y','import_dataset','cpu','Import pebblewick-prompts','finished',3,'cpu','{"source": "uploads/6va9dr965vd2/rows.jsonl", "hub": null, "url": null, "kind": "prompts", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "prompts", "mapping": {"prompt": "prompt"}, "rows": 40, "train_rows": 40, "val_rows": 0, "rejected_count": 0, "rejected": [], "content_hash": "8cd3cbe718c389e0f2b0070042b59546af6d932f8e00f00f864282bd01c78be2", "folder": "datasets/8cd3cbe718c389e0", "bytes": 2720, "text_bytes": 1400, "columns": ["prompt"], "unigram_byte_entropy_bits": 4.494311680361838, "reason": "`prompt` asks and nothing answers", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.41000000000000003, "reporter_cpu_s": 0.00011854800000005161, "version_id": "9et8ffwzmbnq", "version": 1, "reused": false}','{}',1,0,3,0,'starter:pebblewick-prompts',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,886,'{"done": 2000, "total": 2000, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750330.2873719}',NULL,'2026-11-27 03:31:32.816992','2026-11-27 03:32:08.382925','2026-11-27 03:32:10.730459');
INSERT INTO "jobs" VALUES('fakpdptmn62c','train_tokenizer','cpu','Train tokenizer pebblewick-bpe-2048','finished',3,'cpu','{"dataset": "datasets/83fda3cf7de126ec", "kind": "bpe", "vocab_size": 2048, "out": "tokenizers/237a5gkwb5qg"}','{"folder": "tokenizers/237a5gkwb5qg", "kind": "bpe", "vocab_size": 2010, "asked_vocab_size": 2048, "bytes_per_token": 4.2724, "measured_on": "val", "sample_rows": 2147, "sample_bytes": 1268236, "total_rows": 2147, "cpu_s": 3.61, "reporter_cpu_s": 0.0004996060000000274}','{}',1,0,3,0,'starter:pebblewick-bpe-2048','7cjpvbbu2s4k',NULL,NULL,NULL,NULL,NULL,NULL,NULL,805,'{"done": 1, "total": 1, "unit": "part", "rate": null, "message": "All text is read; the vocabulary is being built", "time": 1795750337.52597}',NULL,'2026-11-27 03:31:32.828583','2026-11-27 03:32:10.743627','2026-11-27 03:32:20.473102');
INSERT INTO "jobs" VALUES('pz6j9y639aqj','train','train','Train First stories','finished',5,'auto','{"run_id": "c38scfb468wq", "config": {"name": "First stories", "objective": "pretrain", "dataset": "pebblewick-stories", "architecture": "pebblewick-1m", "tokenizer": "pebblewick-bpe-2048", "base": null, "method": "full", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 80, "micro_batch": 8, "grad_accum_steps": 1, "context": 128, "learning_rate": 0.004, "min_learning_rate": 0.0002, "schedule": "cosine", "warmup_steps": 40, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 100, "eval_batches": 8, "checkpoint_every": 300, "keep_last": 2, "patience": 0, "sample_prompts": ["Once upon a time", "In the village of Pebblewick"], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}, "architecture": {"family": "llama", "num_layers": 4, "width": 128, "num_heads": 4, "num_kv_heads": 4, "context": 256, "vocab_size": 2048, "feed_forward": 384, "tie_embeddings": true, "norm_eps": 1e-05, "head_size": null, "rope_theta": 10000.0, "local_rope_theta": null, "nope_every": null, "window": null, "global_every": null, "num_experts": null, "experts_per_token": null, "expert_feed_forward": null, "shared_experts": null, "dense_layers": null, "query_rank": null, "kv_rank": null, "rope_head_size": null, "nope_head_size": null, "value_head_size": null}, "tokenizer": "tokenizers/237a5gkwb5qg", "tokenizer_id": "237a5gkwb5qg", "dataset": "datasets/83fda3cf7de126ec", "dataset_version_id": "99v5ykbtug9n", "dataset_kind": "text", "base": null, "base_id": null, "run_folder": "runs/c38scfb468wq", "threads": 0}','{"final_step": 80, "stopped": null, "metrics": {"train_loss": 3.4989120960235596, "val_loss": 3.4611310672480613, "val_bpb": 1.1739274246258251, "best_val_loss": 3.4611310672480613, "best_step": 80.0}, "checkpoint": "runs/c38scfb468wq/checkpoints/step-000080", "measurement": {"measured_bytes": 95756288, "allocated_bytes": null, "tokens_per_s": 987.4531165441579, "device": "CPU, 2 cores", "device_kind": "cpu", "step_s": 1.0401962119999553, "step_s_low": 0.7889606559997446, "step_s_high": 1.327254258999801, "steps_timed": 78.0}, "cpu_s": 37.73, "reporter_cpu_s": 0.008572767000018633}','{}',1,0,3,0,'page:3717cddd93443371db49d095dfbbc0f3a7713ee0',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,33813,'{"done": 80, "total": 80, "unit": "step", "rate": 0.9237802377461556, "message": "", "time": 1795750441.3309395}',NULL,'2026-11-27 03:32:23.943712','2026-11-27 03:32:24.068135','2026-11-27 03:34:01.839399');
INSERT INTO "jobs" VALUES('dcxyenme2abe','train','train','Train First chat','finished',5,'auto','{"run_id": "6huarnusn4j9", "config": {"name": "First chat", "objective": "sft", "dataset": "pebblewick-chat", "architecture": null, "tokenizer": null, "base": "First stories \u00b7 step 80", "method": "full", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 30, "micro_batch": 8, "grad_accum_steps": 1, "context": 256, "learning_rate": 0.002, "min_learning_rate": 0.0001, "schedule": "cosine", "warmup_steps": 20, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 100, "eval_batches": 8, "checkpoint_every": 200, "keep_last": 2, "patience": 0, "sample_prompts": ["Tell me a bedtime story about Mira.", "How is Juno''s fox called?"], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}, "architecture": null, "tokenizer": null, "tokenizer_id": null, "dataset": "datasets/dc011c04a41882a9", "dataset_version_id": "8hbxxjbwczxs", "dataset_kind": "chat", "base": "runs/c38scfb468wq/checkpoints/step-000080", "base_id": "tzuhjq26rh7m", "run_folder": "runs/6huarnusn4j9", "threads": 0}','{"final_step": 30, "stopped": null, "metrics": {"train_loss": 3.1485345363616943, "val_loss": 3.094708384168076, "best_val_loss": 3.094708384168076, "best_step": 30.0}, "checkpoint": "runs/6huarnusn4j9/checkpoints/step-000030", "measurement": {"measured_bytes": 123019264, "allocated_bytes": null, "tokens_per_s": 766.0995629418571, "device": "CPU, 2 cores", "device_kind": "cpu", "step_s": 1.800811243499993, "step_s_low": 1.0971826469999542, "step_s_high": 2.8947058700000525, "steps_timed": 28.0}, "cpu_s": 29.91, "reporter_cpu_s": 0.003553931999991544}','{}',1,0,3,0,'page:34b4042261e839fe2268b41c6a3aa0257aee7afc',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,13396,'{"done": 30, "total": 30, "unit": "step", "rate": 0.49641368969585603, "message": "", "time": 1795750517.4421139}',NULL,'2026-11-27 03:34:05.419981','2026-11-27 03:34:05.453498','2026-11-27 03:35:17.798747');
INSERT INTO "jobs" VALUES('wg4qnx2tsxt2','evaluate','eval','pebblewick-facts@1 on First chat · step 30','finished',5,'auto','{"evaluation_id": "9qp2ay4qjg84", "checkpoint": "runs/6huarnusn4j9/checkpoints/step-000030", "dataset": "datasets/5be434ef93cd9ef3", "kind": "multiple_choice", "split": "all", "config": {"kind": "multiple_choice", "split": "auto", "limit": null, "seed": 1, "shots": 0, "chat": "auto", "windows": "each_window", "max_tokens": 64, "numeric": false, "batch_size": 16}, "fingerprint": "9d3f45e56356acc08c51b04ff750888e3b50e71b2d974571769739f1510d9fbc"}','{"scores": [{"metric": "acc", "value": 0.265, "stderr": 0.031285281590887205, "low": 0.2086815414710911, "high": 0.3301757619262242, "n": 200, "method": "Wilson 95 %"}, {"metric": "acc_norm", "value": 0.265, "stderr": 0.031285281590887205, "low": 0.2086815414710911, "high": 0.3301757619262242, "n": 200, "method": "Wilson 95 %"}], "facts": {"used_chat_template": false, "unit": "items", "items": 200, "context": 256, "number_format": "float32", "device": "cpu", "chance": 0.25}, "cpu_s": 5.43, "reporter_cpu_s": 0.0032601259999989196}','{}',1,0,3,0,'958d18cbc96c498f9e033f3323144940-4hzvzpz3kr4w',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,77780,'{"done": 200, "total": 200, "unit": "items", "rate": 47.07370524444679, "message": "", "time": 1795750537.4620552}',NULL,'2026-11-27 03:35:23.622399','2026-11-27 03:35:23.855958','2026-11-27 03:35:42.477783');
INSERT INTO "jobs" VALUES('f7kud82tvrpe','generate','eval','Completions of First stories · step 80 for Blind round','finished',5,'auto','{"checkpoint": "runs/c38scfb468wq/checkpoints/step-000080", "prompts": [{"id": "hapq4y6mjv7v", "messages": [{"role": "user", "content": "Make up a story about Tilda and a storm."}]}, {"id": "u796wzwmdd2y", "messages": [{"role": "user", "content": "Tell me a funny story about Tobin and Lottie."}]}, {"id": "y8zqqaezz4f8", "messages": [{"role": "user", "content": "What does Pip dream about?"}]}, {"id": "svpf8trfnq2r", "messages": [{"role": "user", "content": "Where would you look for Lottie on a Sunday?"}]}, {"id": "jnyhhbcy92uh", "messages": [{"role": "user", "content": "Where would you look for Marlo on a Sunday?"}]}], "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1}','{"count": 5, "tokens": 310, "used_chat_template": false, "file": "jobs/f7kud82tvrpe/completions.jsonl", "cpu_s": 6.1499999999999995, "reporter_cpu_s": 0.004427663000003523, "owed": 0}','{}',1,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2410,'{"done": 5, "total": 5, "unit": "completions", "rate": null, "message": "", "time": 1795750562.9977758}',NULL,'2026-11-27 03:35:45.247533','2026-11-27 03:35:45.281746','2026-11-27 03:36:06.439184');
INSERT INTO "jobs" VALUES('74ug6z8chd45','generate','eval','Completions of First chat · step 30 for Blind round','finished',5,'auto','{"checkpoint": "runs/6huarnusn4j9/checkpoints/step-000030", "prompts": [{"id": "hapq4y6mjv7v", "messages": [{"role": "user", "content": "Make up a story about Tilda and a storm."}]}, {"id": "u796wzwmdd2y", "messages": [{"role": "user", "content": "Tell me a funny story about Tobin and Lottie."}]}, {"id": "y8zqqaezz4f8", "messages": [{"role": "user", "content": "What does Pip dream about?"}]}, {"id": "svpf8trfnq2r", "messages": [{"role": "user", "content": "Where would you look for Lottie on a Sunday?"}]}, {"id": "jnyhhbcy92uh", "messages": [{"role": "user", "content": "Where would you look for Marlo on a Sunday?"}]}], "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1}','{"count": 5, "tokens": 94, "used_chat_template": true, "file": "jobs/74ug6z8chd45/completions.jsonl", "cpu_s": 4.95, "reporter_cpu_s": 0.002198296999998295, "owed": 0}','{}',1,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1496,'{"done": 5, "total": 5, "unit": "completions", "rate": null, "message": "", "time": 1795750580.7586892}',NULL,'2026-11-27 03:35:45.249058','2026-11-27 03:36:06.460592','2026-11-27 03:36:26.662596');
INSERT INTO "jobs" VALUES('5wx6a5dg9y85','import_dataset','cpu','Import Blind round votes','finished',3,'cpu','{"source": "uploads/zfjd633xc99d/rows.jsonl", "hub": null, "url": null, "kind": "preference", "mapping": {}, "val_fraction": 0.05, "seed": 1, "keep_good": true, "encoding": null, "keep_free_bytes": 16777216, "out_root": "datasets"}','{"kind": "preference", "mapping": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, "rows": 5, "train_rows": 4, "val_rows": 1, "rejected_count": 0, "rejected": [], "content_hash": "f4d15c92b581845e59f267303a699a7ea00c9a3b04ec92ccd15f0daf27d1f47f", "folder": "datasets/f4d15c92b581845e", "bytes": 15752, "text_bytes": 1789, "columns": ["prompt", "chosen", "rejected"], "unigram_byte_entropy_bits": 4.468687693772996, "reason": "`chosen` and `rejected` are answers to `prompt`", "files": 1, "ignored": [], "resumed": false, "cpu_s": 0.51, "reporter_cpu_s": 0.00015657499999993663, "version_id": "p9hyxuc6ecnc", "version": 1, "reused": false}','{}',1,0,3,0,'votes-82p39y3h9g9v-5-tzuhjq26rh7m',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,964,'{"done": 2557, "total": 2557, "unit": "byte", "rate": null, "message": "all rows read", "time": 1795750594.6907756}',NULL,'2026-11-27 03:36:32.787904','2026-11-27 03:36:32.830377','2026-11-27 03:36:35.247788');
INSERT INTO "jobs" VALUES('efj38rc6jsff','train','train','Train DPO on votes of Blind round','finished',5,'auto','{"run_id": "tfezwph6n8z4", "config": {"name": "DPO on votes of Blind round", "objective": "dpo", "dataset": "Blind round votes@1", "architecture": null, "tokenizer": null, "base": "tzuhjq26rh7m", "method": "lora", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 10, "micro_batch": 4, "grad_accum_steps": 1, "context": 256, "learning_rate": 0.0002, "min_learning_rate": 0.0, "schedule": "cosine", "warmup_steps": 2, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 2, "eval_batches": 8, "checkpoint_every": 10, "keep_last": 2, "patience": 0, "sample_prompts": [], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}, "architecture": null, "tokenizer": null, "tokenizer_id": null, "dataset": "datasets/f4d15c92b581845e", "dataset_version_id": "p9hyxuc6ecnc", "dataset_kind": "preference", "base": "runs/c38scfb468wq/checkpoints/step-000080", "base_id": "tzuhjq26rh7m", "run_folder": "runs/tfezwph6n8z4", "threads": 0}','{"final_step": 10, "stopped": null, "metrics": {"train_loss": 0.5814650654792786, "rewards/chosen": 0.19752755761146545, "rewards/rejected": -0.045890286564826965, "rewards/accuracies": 1.0, "rewards/margins": 0.24341782927513123, "val_loss": 0.7997713088989258, "val_rewards/chosen": -0.046949006617069244, "val_rewards/rejected": 0.15601806342601776, "val_rewards/accuracies": 0.0, "val_rewards/margins": -0.2029670774936676, "best_val_loss": 0.7997713088989258, "best_step": 10.0}, "checkpoint": "runs/tfezwph6n8z4/checkpoints/step-000010", "measurement": {"measured_bytes": 73879552, "allocated_bytes": null, "tokens_per_s": 720.6079466108795, "device": "CPU, 2 cores", "device_kind": "cpu", "step_s": 0.4973670500000935, "step_s_low": 0.3145529449998321, "step_s_high": 0.8299186230001396, "steps_timed": 8.0}, "cpu_s": 8.18, "reporter_cpu_s": 0.0016090710000016273}','{}',1,0,3,0,'dpo-82p39y3h9g9v-5-tzuhjq26rh7m','5wx6a5dg9y85',NULL,NULL,NULL,NULL,NULL,NULL,NULL,8180,'{"done": 10, "total": 10, "unit": "step", "rate": 1.502102298214783, "message": "", "time": 1795750611.6513653}',NULL,'2026-11-27 03:36:32.832032','2026-11-27 03:36:35.550148','2026-11-27 03:36:52.109296');
INSERT INTO "jobs" VALUES('p3qbgx2q5ygn','generate','eval','Completions of First stories · step 80 for Rematch of Blind round','finished',5,'auto','{"checkpoint": "runs/c38scfb468wq/checkpoints/step-000080", "prompts": [{"id": "56tp4zwpd2en", "messages": [{"role": "user", "content": "What would Corin do with a hundred silver coins?"}]}, {"id": "s3b49p7byjem", "messages": [{"role": "user", "content": "I want to cook for Nell. What should I make?"}]}, {"id": "buqek5jzzv9z", "messages": [{"role": "user", "content": "What present would Ozzo like?"}]}, {"id": "um2nc699r2ru", "messages": [{"role": "user", "content": "Tell me a bedtime story about Rufo."}]}, {"id": "pdamef27k65d", "messages": [{"role": "user", "content": "Who should Vela invite to a party?"}]}], "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1}','{"count": 5, "tokens": 394, "used_chat_template": false, "file": "jobs/p3qbgx2q5ygn/completions.jsonl", "cpu_s": 6.3, "reporter_cpu_s": 0.00412868899999852, "owed": 0}','{}',1,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2684,'{"done": 5, "total": 5, "unit": "completions", "rate": null, "message": "", "time": 1795750631.5797312}',NULL,'2026-11-27 03:36:52.096361','2026-11-27 03:36:52.135730','2026-11-27 03:37:16.028712');
INSERT INTO "jobs" VALUES('wfrhhf4xw823','generate','eval','Completions of DPO on votes of Blind round · step 10 for Rematch of Blind round','finished',5,'auto','{"checkpoint": "runs/tfezwph6n8z4/checkpoints/step-000010", "prompts": [{"id": "56tp4zwpd2en", "messages": [{"role": "user", "content": "What would Corin do with a hundred silver coins?"}]}, {"id": "s3b49p7byjem", "messages": [{"role": "user", "content": "I want to cook for Nell. What should I make?"}]}, {"id": "buqek5jzzv9z", "messages": [{"role": "user", "content": "What present would Ozzo like?"}]}, {"id": "um2nc699r2ru", "messages": [{"role": "user", "content": "Tell me a bedtime story about Rufo."}]}, {"id": "pdamef27k65d", "messages": [{"role": "user", "content": "Who should Vela invite to a party?"}]}], "max_tokens": 96, "temperature": 0.8, "top_p": 0.95, "seed": 1}','{"count": 5, "tokens": 182, "used_chat_template": true, "file": "jobs/wfrhhf4xw823/completions.jsonl", "cpu_s": 7.73, "reporter_cpu_s": 0.0045536690000003155, "owed": 0}','{}',1,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1834,'{"done": 5, "total": 5, "unit": "completions", "rate": null, "message": "", "time": 1795750668.3400612}',NULL,'2026-11-27 03:36:52.108321','2026-11-27 03:37:16.039220','2026-11-27 03:37:53.607997');
INSERT INTO "jobs" VALUES('wupv2hc58pf2','replica','serve','village, replica 1','queued',3,'auto','{"checkpoint": "runs/6huarnusn4j9/checkpoints/step-000030", "name": "village", "internal_token": "internal-token-of-a-test", "threads": 1}','{}','{}',1,0,3,1,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2391,'{}',NULL,'2026-11-27 03:36:55.048409','2026-11-27 03:36:55.511745',NULL);
CREATE TABLE judged_items (
	id INTEGER NOT NULL, 
	job_id VARCHAR(12) NOT NULL, 
	evaluation_id VARCHAR(12), 
	position INTEGER NOT NULL, 
	item VARCHAR(200) NOT NULL, 
	verdict VARCHAR(80), 
	record JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_judged_items PRIMARY KEY (id), 
	CONSTRAINT fk_judged_items_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (id), 
	CONSTRAINT fk_judged_items_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_judged_items_job_id_item UNIQUE (job_id, item)
);
CREATE TABLE load_tests (
	id VARCHAR(12) NOT NULL, 
	endpoint_id VARCHAR(12) NOT NULL, 
	deployment_id VARCHAR(12) NOT NULL, 
	job_id VARCHAR(12), 
	config JSON NOT NULL, 
	result JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_load_tests PRIMARY KEY (id), 
	CONSTRAINT fk_load_tests_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_load_tests_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id), 
	CONSTRAINT fk_load_tests_job_id FOREIGN KEY(job_id) REFERENCES jobs (id)
);
CREATE TABLE log_lines (
	id INTEGER NOT NULL, 
	job_id VARCHAR(12) NOT NULL, 
	attempt INTEGER NOT NULL, 
	time FLOAT NOT NULL, 
	text TEXT NOT NULL, 
	CONSTRAINT pk_log_lines PRIMARY KEY (id), 
	CONSTRAINT fk_log_lines_job_id FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "log_lines" VALUES(3,'7cjpvbbu2s4k',1,1.79575032324868655e+09,'Reading rows.jsonl as text: `text` is text.');
INSERT INTO "log_lines" VALUES(4,'7cjpvbbu2s4k',1,1.79575032334972524e+09,'2,280 rows: 2,147 for training, 133 for validation, 0 rejected.');
INSERT INTO "log_lines" VALUES(18,'dcxyenme2abe',1,1.795750453521667e+09,'Training on the CPU with 2 threads.');
INSERT INTO "log_lines" VALUES(21,'5wx6a5dg9y85',1,1.79575059464975285e+09,'Reading rows.jsonl as preference: `chosen` and `rejected` are answers to `prompt`.');
INSERT INTO "log_lines" VALUES(22,'5wx6a5dg9y85',1,1.7957505947045114e+09,'5 rows: 4 for training, 1 for validation, 0 rejected.');
CREATE TABLE measurements (
	id VARCHAR(12) NOT NULL, 
	origin VARCHAR(10) NOT NULL, 
	job_id VARCHAR(12), 
	run_id VARCHAR(12), 
	setting JSON NOT NULL, 
	setting_hash VARCHAR(64) NOT NULL, 
	device VARCHAR(80) NOT NULL, 
	host VARCHAR(80) NOT NULL, 
	estimated_bytes BIGINT NOT NULL, 
	measured_bytes BIGINT NOT NULL, 
	tokens_per_s FLOAT NOT NULL, 
	facts JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_measurements PRIMARY KEY (id), 
	CONSTRAINT fk_measurements_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_measurements_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "measurements" VALUES('ww8eb697khk4','run','pz6j9y639aqj','c38scfb468wq','{"architecture": {"family": "llama", "num_layers": 4, "width": 128, "num_heads": 4, "num_kv_heads": 4, "context": 256, "vocab_size": 2048, "feed_forward": 384, "tie_embeddings": true, "norm_eps": 1e-05, "head_size": null, "rope_theta": 10000.0, "local_rope_theta": null, "nope_every": null, "window": null, "global_every": null, "num_experts": null, "experts_per_token": null, "expert_feed_forward": null, "shared_experts": null, "dense_layers": null, "query_rank": null, "kv_rank": null, "rope_head_size": null, "nope_head_size": null, "value_head_size": null}, "objective": "pretrain", "lora_rank": null, "precision": "fp32", "micro_batch": 8, "context": 128, "accumulates": false, "recompute": false, "compiled": false, "packed": false, "base_bits": null, "optimizer": "adamw", "frozen_blocks": 0, "average": false, "dropout": false, "device": "cpu", "keeps_reference": false, "devices": 1, "sharding": "none", "data": null}','6ec59e302daede290c509ff9ab23a5afcab1fff1bba8391ae037292094cbdefb','CPU, 2 cores','workshop',101214592,95756288,9.87453116544157865e+02,'{"step_s": 1.0401962119999553, "step_s_low": 0.7889606559997446, "step_s_high": 1.327254258999801, "steps_timed": 78.0, "accumulated": 1}','2026-11-27 03:34:01.835734');
INSERT INTO "measurements" VALUES('u74ce43v558r','run','dcxyenme2abe','6huarnusn4j9','{"architecture": {"family": "llama", "num_layers": 4, "width": 128, "num_heads": 4, "num_kv_heads": 4, "context": 256, "vocab_size": 2048, "feed_forward": 384, "tie_embeddings": true, "norm_eps": 1e-05, "head_size": null, "rope_theta": 10000.0, "local_rope_theta": null, "nope_every": null, "window": null, "global_every": null, "num_experts": null, "experts_per_token": null, "expert_feed_forward": null, "shared_experts": null, "dense_layers": null, "query_rank": null, "kv_rank": null, "rope_head_size": null, "nope_head_size": null, "value_head_size": null}, "objective": "sft", "lora_rank": null, "precision": "fp32", "micro_batch": 4, "context": 256, "accumulates": true, "recompute": false, "compiled": false, "packed": true, "base_bits": null, "optimizer": "adamw", "frozen_blocks": 0, "average": false, "dropout": false, "device": "cpu", "keeps_reference": false, "devices": 1, "sharding": "none", "data": "8hbxxjbwczxs"}','9bc14d9b479fc2f07c216683ca4f3d81e14bcb2d01ed1cb99da38ee523ab225c','CPU, 2 cores','workshop',107805568,123019264,7.66099562941857129e+02,'{"step_s": 1.800811243499993, "step_s_low": 1.0971826469999542, "step_s_high": 2.8947058700000525, "steps_timed": 28.0, "accumulated": 1}','2026-11-27 03:35:17.793167');
INSERT INTO "measurements" VALUES('cvteybgwz2bv','run','efj38rc6jsff','tfezwph6n8z4','{"architecture": {"family": "llama", "num_layers": 4, "width": 128, "num_heads": 4, "num_kv_heads": 4, "context": 256, "vocab_size": 2048, "feed_forward": 384, "tie_embeddings": true, "norm_eps": 1e-05, "head_size": null, "rope_theta": 10000.0, "local_rope_theta": null, "nope_every": null, "window": null, "global_every": null, "num_experts": null, "experts_per_token": null, "expert_feed_forward": null, "shared_experts": null, "dense_layers": null, "query_rank": null, "kv_rank": null, "rope_head_size": null, "nope_head_size": null, "value_head_size": null}, "objective": "dpo", "lora_rank": 8, "precision": "fp32", "micro_batch": 4, "context": 256, "accumulates": false, "recompute": false, "compiled": false, "packed": false, "base_bits": null, "optimizer": "adamw", "frozen_blocks": 0, "average": false, "dropout": false, "device": "cpu", "keeps_reference": false, "devices": 1, "sharding": "none", "data": "p9hyxuc6ecnc"}','da106f418c88d29dfefc83850afc229b1d5956ebcfc1ae7b35a191936f637331','CPU, 2 cores','workshop',171808128,73879552,7.2060794661087948e+02,'{"step_s": 0.4973670500000935, "step_s_low": 0.3145529449998321, "step_s_high": 0.8299186230001396, "steps_timed": 8.0, "accumulated": 1}','2026-11-27 03:36:52.079521');
CREATE TABLE messages (
	id VARCHAR(12) NOT NULL, 
	conversation_id VARCHAR(12) NOT NULL, 
	position INTEGER NOT NULL, 
	branch INTEGER NOT NULL, 
	role VARCHAR(12) NOT NULL, 
	content TEXT NOT NULL, 
	endpoint VARCHAR(80), 
	checkpoint_id VARCHAR(12), 
	usage JSON NOT NULL, 
	vote VARCHAR(10), 
	created_at DATETIME NOT NULL, parent_id VARCHAR(12), round INTEGER DEFAULT '0' NOT NULL, status VARCHAR(10) DEFAULT 'done' NOT NULL, tokens JSON, updated_at DATETIME, 
	CONSTRAINT pk_messages PRIMARY KEY (id), 
	CONSTRAINT fk_messages_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_messages_conversation_id FOREIGN KEY(conversation_id) REFERENCES conversations (id)
);
INSERT INTO "messages" VALUES('4gspu4tc3cf3','yefejffqqtuu',0,0,'user','Tell me a story about Mira.',NULL,NULL,'{}',NULL,'2026-11-27 03:37:10.535526',NULL,0,'done',NULL,NULL);
INSERT INTO "messages" VALUES('nmbxxged9fkb','yefejffqqtuu',1,0,'assistant','The teacher of Pebblewick is "I will not know," said Mira.','village','4hzvzpz3kr4w','{"prompt_tokens": 11, "completion_tokens": 15, "ttft_ms": 29.146959999707178, "tok_per_sec": 63.25, "finish_reason": "stop", "error": null}',NULL,'2026-11-27 03:37:10.855818','4gspu4tc3cf3',0,'done',NULL,NULL);
CREATE TABLE metric_blocks (
	run_id VARCHAR(12) NOT NULL, 
	name_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	points BLOB NOT NULL, 
	CONSTRAINT pk_metric_blocks PRIMARY KEY (run_id, name_id, number), 
	CONSTRAINT fk_metric_blocks_name_id FOREIGN KEY(name_id) REFERENCES metric_names (id), 
	CONSTRAINT fk_metric_blocks_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID

;
CREATE TABLE metric_names (
	id INTEGER NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	CONSTRAINT pk_metric_names PRIMARY KEY (id), 
	CONSTRAINT uq_metric_names_name UNIQUE (name)
);
INSERT INTO "metric_names" VALUES(1,'data_wait');
INSERT INTO "metric_names" VALUES(2,'grad_norm');
INSERT INTO "metric_names" VALUES(3,'learning_rate');
INSERT INTO "metric_names" VALUES(4,'memory_bytes');
INSERT INTO "metric_names" VALUES(5,'mfu');
INSERT INTO "metric_names" VALUES(6,'tok_per_sec');
INSERT INTO "metric_names" VALUES(7,'train_loss');
INSERT INTO "metric_names" VALUES(8,'device_use');
INSERT INTO "metric_names" VALUES(9,'val_bpb');
INSERT INTO "metric_names" VALUES(10,'val_loss');
INSERT INTO "metric_names" VALUES(11,'rewards/accuracies');
INSERT INTO "metric_names" VALUES(12,'rewards/chosen');
INSERT INTO "metric_names" VALUES(13,'rewards/margins');
INSERT INTO "metric_names" VALUES(14,'rewards/rejected');
INSERT INTO "metric_names" VALUES(15,'val_rewards/accuracies');
INSERT INTO "metric_names" VALUES(16,'val_rewards/chosen');
INSERT INTO "metric_names" VALUES(17,'val_rewards/margins');
INSERT INTO "metric_names" VALUES(18,'val_rewards/rejected');
CREATE TABLE metric_points (
	run_id VARCHAR(12) NOT NULL, 
	name_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	value FLOAT NOT NULL, 
	time FLOAT NOT NULL, 
	CONSTRAINT pk_metric_points PRIMARY KEY (run_id, name_id, step), 
	CONSTRAINT fk_metric_points_name_id FOREIGN KEY(name_id) REFERENCES metric_names (id), 
	CONSTRAINT fk_metric_points_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
)
 WITHOUT ROWID

;
INSERT INTO "metric_points" VALUES('6huarnusn4j9',1,20,4.25518213672232414e-04,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('6huarnusn4j9',2,20,9.0182352066040039e-01,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('6huarnusn4j9',3,20,0.002,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('6huarnusn4j9',4,20,120922112.0,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('6huarnusn4j9',6,20,1.06527204118972213e+03,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('6huarnusn4j9',7,20,3.33820343017578125e+00,1.7957505026170566e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',1,20,1.98665292423273363e-04,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',1,40,2.82918633328238164e-04,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',1,60,7.33986691707353821e-03,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',1,80,3.41952590323854437e-04,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',2,20,1.18493008613586425e+00,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',2,40,1.68395578861236572e+00,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',2,60,8.03949713706970214e-01,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',2,80,7.46498465538024902e-01,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',3,20,0.002,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',3,40,0.004,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',3,60,2.24907228188290586e-03,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',3,80,2.05857065907056875e-04,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',4,20,92102656.0,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',4,60,94199808.0,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',4,80,94199808.0,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',5,20,8.45425462005553324e-02,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',5,40,1.19461756584196651e-01,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',5,60,1.30327890425972037e-01,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',5,80,1.22139104080062746e-01,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',6,20,7.36138183719072117e+02,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',6,40,1.04019058412511799e+03,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',6,60,1.13480538329803812e+03,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',6,80,1.06350307956517985e+03,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',7,20,5.57054328918457,1.79575037573907423e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',7,40,4.78095817565918,1.79575039879067945e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',7,60,3.78204107284545898e+00,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',7,80,3.49891209602355957e+00,1.79575043790353059e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',8,60,2.48942679920124754e-01,1.79575041941416287e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',9,80,1.17392742462582511e+00,1.79575044107391977e+09);
INSERT INTO "metric_points" VALUES('c38scfb468wq',10,80,3.46113106724806129e+00,1.79575044107391977e+09);
CREATE TABLE packed_items (
	evaluation_id VARCHAR(12) NOT NULL, 
	metrics JSON NOT NULL, 
	data BLOB NOT NULL, 
	CONSTRAINT pk_packed_items PRIMARY KEY (evaluation_id), 
	CONSTRAINT fk_packed_items_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (id)
);
CREATE TABLE presets (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	user_id VARCHAR(12), 
	is_shared BOOLEAN NOT NULL, 
	settings JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_presets PRIMARY KEY (id), 
	CONSTRAINT fk_presets_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE promotions (
	id VARCHAR(12) NOT NULL, 
	alias_id VARCHAR(12) NOT NULL, 
	decision VARCHAR(10) NOT NULL, 
	checkpoint_id VARCHAR(12) NOT NULL, 
	previous_id VARCHAR(12), 
	campaign_id VARCHAR(12), 
	reason TEXT NOT NULL, 
	evidence JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_promotions PRIMARY KEY (id), 
	CONSTRAINT fk_promotions_alias_id FOREIGN KEY(alias_id) REFERENCES aliases (id), 
	CONSTRAINT fk_promotions_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_promotions_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_promotions_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_promotions_previous_id FOREIGN KEY(previous_id) REFERENCES checkpoints (id)
);
CREATE TABLE rater_exclusions (
	id VARCHAR(12) NOT NULL, 
	campaign_id VARCHAR(12) NOT NULL, 
	rater_id VARCHAR(12) NOT NULL, 
	excluded BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_rater_exclusions PRIMARY KEY (id), 
	CONSTRAINT fk_rater_exclusions_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_rater_exclusions_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_rater_exclusions_rater_id FOREIGN KEY(rater_id) REFERENCES raters (id)
);
CREATE TABLE raters (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	user_id VARCHAR(12), 
	campaign_id VARCHAR(12), 
	link_hash VARCHAR(64), 
	expires_at DATETIME, 
	created_at DATETIME NOT NULL, created_by VARCHAR(12) CONSTRAINT fk_raters_created_by REFERENCES users (id), single_use BOOLEAN DEFAULT '0' NOT NULL, browser_hash VARCHAR(64), 
	CONSTRAINT pk_raters PRIMARY KEY (id), 
	CONSTRAINT fk_raters_campaign_id FOREIGN KEY(campaign_id) REFERENCES campaigns (id), 
	CONSTRAINT fk_raters_user_id FOREIGN KEY(user_id) REFERENCES users (id), 
	CONSTRAINT uq_raters_link_hash UNIQUE (link_hash), 
	CONSTRAINT uq_raters_user_id UNIQUE (user_id)
);
INSERT INTO "raters" VALUES('local','you',NULL,NULL,NULL,NULL,'2026-11-27 03:36:21.767618',NULL,0,NULL);
CREATE TABLE replica_failures (
	id VARCHAR(12) NOT NULL, 
	replica_id VARCHAR(12) NOT NULL, 
	reason VARCHAR(40) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_replica_failures PRIMARY KEY (id)
);
CREATE TABLE "replicas" (
	id VARCHAR(12) NOT NULL, 
	deployment_id VARCHAR(12) NOT NULL, 
	job_id VARCHAR(12), 
	status VARCHAR(12) NOT NULL, 
	url VARCHAR(300), 
	internal_token VARCHAR(64) NOT NULL, 
	gauges JSON NOT NULL, 
	ready_at DATETIME, 
	CONSTRAINT pk_replicas PRIMARY KEY (id), 
	CONSTRAINT uq_replicas_job_id UNIQUE (job_id), 
	CONSTRAINT fk_replicas_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_replicas_deployment_id FOREIGN KEY(deployment_id) REFERENCES deployments (id)
);
INSERT INTO "replicas" VALUES('yqvy5ekrh649','aws8hm8tknen','wupv2hc58pf2','ready','http://127.0.0.1:40463','internal-token-of-a-test','{"running": 0, "waiting": 0, "tokens_per_second": 0.0}','2026-11-27 03:37:05.961808');
CREATE TABLE request_log_policies (
	endpoint_id VARCHAR(12) NOT NULL, 
	config JSON NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_request_log_policies PRIMARY KEY (endpoint_id), 
	CONSTRAINT fk_request_log_policies_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);
CREATE TABLE request_logs (
	id VARCHAR(40) NOT NULL, 
	endpoint_id VARCHAR(12) NOT NULL, 
	key_id VARCHAR(12), 
	checkpoint_id VARCHAR(12), 
	kind VARCHAR(12) NOT NULL, 
	params JSON NOT NULL, 
	messages JSON, 
	answer TEXT, 
	status VARCHAR(20) NOT NULL, 
	redactions INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_request_logs PRIMARY KEY (id), 
	CONSTRAINT fk_request_logs_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id), 
	CONSTRAINT fk_request_logs_key_id FOREIGN KEY(key_id) REFERENCES api_keys (id)
);
CREATE TABLE required_gates (
	id INTEGER NOT NULL, 
	endpoint VARCHAR(80) NOT NULL, 
	gate_id VARCHAR(12) NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_required_gates PRIMARY KEY (id), 
	CONSTRAINT fk_required_gates_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_required_gates_gate_id FOREIGN KEY(gate_id) REFERENCES gates (id), 
	CONSTRAINT uq_required_gates_endpoint_gate_id UNIQUE (endpoint, gate_id)
);
CREATE TABLE run_groups (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	config JSON NOT NULL, 
	result JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	CONSTRAINT pk_run_groups PRIMARY KEY (id), 
	CONSTRAINT fk_run_groups_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_run_groups_name UNIQUE (name)
);
CREATE TABLE run_suites (
	id INTEGER NOT NULL, 
	run_id VARCHAR(12) NOT NULL, 
	suite_id VARCHAR(12) NOT NULL, 
	moment VARCHAR(10) NOT NULL, 
	CONSTRAINT pk_run_suites PRIMARY KEY (id), 
	CONSTRAINT fk_run_suites_run_id FOREIGN KEY(run_id) REFERENCES runs (id), 
	CONSTRAINT fk_run_suites_suite_id FOREIGN KEY(suite_id) REFERENCES suites (id), 
	CONSTRAINT uq_run_suites_run_id_suite_id UNIQUE (run_id, suite_id)
);
CREATE TABLE runs (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	objective VARCHAR(20) NOT NULL, 
	config JSON NOT NULL, 
	job_id VARCHAR(12), 
	dataset_version_id VARCHAR(12), 
	architecture_id VARCHAR(12), 
	tokenizer_id VARCHAR(12), 
	base_id VARCHAR(12), 
	tags JSON NOT NULL, 
	notes TEXT NOT NULL, 
	last_step INTEGER NOT NULL, 
	summary JSON NOT NULL, 
	curve_resets INTEGER NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, group_id VARCHAR(12) CONSTRAINT fk_runs_group_id REFERENCES run_groups (id), parent_id VARCHAR(12) CONSTRAINT fk_runs_parent_id REFERENCES runs (id), warnings JSON DEFAULT '[]' NOT NULL, origin VARCHAR(10) DEFAULT 'launched' NOT NULL, packed_to INTEGER DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT fk_runs_architecture_id FOREIGN KEY(architecture_id) REFERENCES architectures (id), 
	CONSTRAINT fk_runs_base_id FOREIGN KEY(base_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_runs_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_runs_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id), 
	CONSTRAINT fk_runs_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT fk_runs_tokenizer_id FOREIGN KEY(tokenizer_id) REFERENCES tokenizers (id), 
	CONSTRAINT uq_runs_job_id UNIQUE (job_id)
);
INSERT INTO "runs" VALUES('c38scfb468wq','First stories','pretrain','{"name": "First stories", "objective": "pretrain", "dataset": "pebblewick-stories", "architecture": "pebblewick-1m", "tokenizer": "pebblewick-bpe-2048", "base": null, "method": "full", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 80, "micro_batch": 8, "grad_accum_steps": 1, "context": 128, "learning_rate": 0.004, "min_learning_rate": 0.0002, "schedule": "cosine", "warmup_steps": 40, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 100, "eval_batches": 8, "checkpoint_every": 300, "keep_last": 2, "patience": 0, "sample_prompts": ["Once upon a time", "In the village of Pebblewick"], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}','pz6j9y639aqj','99v5ykbtug9n','kbbwbtz5zzfc','237a5gkwb5qg',NULL,'[]','',80,'{"last": {"train_loss": 3.4989120960235596, "learning_rate": 0.00020585706590705688, "grad_norm": 0.7464984655380249, "tok_per_sec": 1063.5030795651799, "data_wait": 0.00034195259032385444, "mfu": 0.12213910408006275, "memory_bytes": 94199808.0, "device_use": 0.20328437821988546, "val_loss": 3.4611310672480613, "val_bpb": 1.1739274246258251}, "spark": [[1, 7.66355], [3, 7.52854], [5, 7.28882], [7, 7.11636], [9, 6.96255], [11, 6.77004], [13, 6.49723], [15, 6.21617], [17, 6.02749], [19, 5.68577], [21, 5.65365], [23, 5.46551], [25, 5.49344], [27, 5.25596], [29, 5.04913], [31, 5.35724], [33, 5.10359], [35, 5.07662], [37, 4.90097], [39, 4.69503], [41, 4.68726], [43, 4.46008], [45, 4.57761], [47, 4.40297], [49, 4.21794], [51, 4.25858], [53, 4.40715], [55, 4.07818], [57, 3.68458], [59, 3.77994], [61, 3.88436], [63, 3.70755], [65, 3.4436], [67, 3.44257], [69, 3.75869], [71, 3.39808], [73, 3.61325], [75, 3.64168], [77, 3.64147], [79, 3.50105]], "spark_stride": 2, "best_val_loss": 3.4611310672480613, "best_val_step": 80, "result": {"final_step": 80, "checkpoint": "runs/c38scfb468wq/checkpoints/step-000080", "cpu_s": 37.73, "reporter_cpu_s": 0.008572767000018633}}',0,NULL,'2026-11-27 03:32:23.945383',NULL,NULL,NULL,'[]','launched',0);
INSERT INTO "runs" VALUES('6huarnusn4j9','First chat','sft','{"name": "First chat", "objective": "sft", "dataset": "pebblewick-chat", "architecture": null, "tokenizer": null, "base": "First stories \u00b7 step 80", "method": "full", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 30, "micro_batch": 8, "grad_accum_steps": 1, "context": 256, "learning_rate": 0.002, "min_learning_rate": 0.0001, "schedule": "cosine", "warmup_steps": 20, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 100, "eval_batches": 8, "checkpoint_every": 200, "keep_last": 2, "patience": 0, "sample_prompts": ["Tell me a bedtime story about Mira.", "How is Juno''s fox called?"], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}','dcxyenme2abe','8hbxxjbwczxs',NULL,NULL,'tzuhjq26rh7m','[]','',30,'{"last": {"train_loss": 3.1485345363616943, "learning_rate": 0.00014649630951960415, "grad_norm": 0.6125238537788391, "tok_per_sec": 902.3589475452508, "data_wait": 0.00030304464187978027, "device_use": 0.2609214234351155, "memory_bytes": 123019264.0, "val_loss": 3.094708384168076}, "spark": [[1, 3.83315], [2, 3.89285], [3, 3.95072], [4, 3.94243], [5, 3.61721], [6, 3.6319], [7, 3.66724], [8, 3.85462], [9, 3.52839], [10, 3.69602], [11, 3.58773], [12, 3.65926], [13, 3.69175], [14, 3.7735], [15, 3.59338], [16, 3.38438], [17, 3.30927], [18, 3.19047], [19, 3.29827], [20, 3.3382], [21, 3.25786], [22, 3.44058], [23, 2.98877], [24, 3.44007], [25, 3.17609], [26, 3.32455], [27, 2.99059], [28, 3.19021], [29, 3.05237], [30, 3.14853]], "spark_stride": 1, "best_val_loss": 3.094708384168076, "best_val_step": 30, "result": {"final_step": 30, "checkpoint": "runs/6huarnusn4j9/checkpoints/step-000030", "cpu_s": 29.91, "reporter_cpu_s": 0.003553931999991544}}',0,NULL,'2026-11-27 03:34:05.420674',NULL,NULL,NULL,'[{"code": "warmup_long", "field": "warmup_steps", "sentence": "The warm-up of 20 steps takes more than half of the 30.", "cure": "A twentieth of the run is usual."}]','launched',0);
INSERT INTO "runs" VALUES('tfezwph6n8z4','DPO on votes of Blind round','dpo','{"name": "DPO on votes of Blind round", "objective": "dpo", "dataset": "Blind round votes@1", "architecture": null, "tokenizer": null, "base": "tzuhjq26rh7m", "method": "lora", "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "variant": "lora", "bits": 4}, "freeze_blocks": 0, "packing": true, "preference": {"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0.0, "gamma": 0.5, "sft_weight": 0.0, "desirable_weight": 1.0, "undesirable_weight": 1.0}, "grpo": {"rewards": [], "group_size": 8, "max_new_tokens": 64, "temperature": 1.0, "kl_weight": 0.0, "clip_range": 0.2}, "max_steps": 10, "micro_batch": 4, "grad_accum_steps": 1, "context": 256, "learning_rate": 0.0002, "min_learning_rate": 0.0, "schedule": "cosine", "warmup_steps": 2, "decay_steps": 0, "optimizer": "adamw", "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0, "label_smoothing": 0.0, "z_loss": 0.0, "dropout": 0.0, "ema_decay": 0.0, "max_epochs": 0.0, "seed": 1, "eval_every": 2, "eval_batches": 8, "checkpoint_every": 10, "keep_last": 2, "patience": 0, "sample_prompts": [], "sample_tokens": 48, "precision": "auto", "attention": "auto", "recompute": false, "compile": "auto", "device": "auto", "devices": {"count": 1, "nodes": 1, "sharding": "ddp", "rendezvous": ""}, "trackers": [], "queue": "train", "priority": 5}','efj38rc6jsff','p9hyxuc6ecnc',NULL,NULL,'tzuhjq26rh7m','[]','',10,'{"last": {"train_loss": 0.5814650654792786, "learning_rate": 7.612046748871327e-06, "grad_norm": 0.8445544242858887, "tok_per_sec": 1035.1411637830881, "data_wait": 0.0014367906697505422, "rewards/chosen": 0.19752755761146545, "rewards/rejected": -0.045890286564826965, "rewards/accuracies": 1.0, "rewards/margins": 0.24341782927513123, "memory_bytes": 69046272.0, "val_loss": 0.7997713088989258, "val_rewards/chosen": -0.046949006617069244, "val_rewards/rejected": 0.15601806342601776, "val_rewards/accuracies": 0.0, "val_rewards/margins": -0.2029670774936676, "device_use": 0.30402802695341846}, "spark": [[1, 0.69315], [2, 0.6838], [3, 0.6651], [4, 0.64639], [5, 0.62836], [6, 0.61236], [7, 0.59939], [8, 0.59001], [9, 0.58422], [10, 0.58147]], "spark_stride": 1, "best_val_loss": 0.716674268245697, "best_val_step": 2, "result": {"final_step": 10, "checkpoint": "runs/tfezwph6n8z4/checkpoints/step-000010", "cpu_s": 8.18, "reporter_cpu_s": 0.0016090710000016273}}',0,NULL,'2026-11-27 03:36:32.832570',NULL,NULL,NULL,'[]','launched',0);
CREATE TABLE samples (
	id INTEGER NOT NULL, 
	run_id VARCHAR(12) NOT NULL, 
	step INTEGER NOT NULL, 
	prompt TEXT NOT NULL, 
	completion TEXT NOT NULL, 
	CONSTRAINT pk_samples PRIMARY KEY (id), 
	CONSTRAINT fk_samples_run_id FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "samples" VALUES(1,'c38scfb468wq',80,'Once upon a time','." Bram took her white. She is the door, because her one. Bram loves gone, and Vela and Lottie opened. "It you can mushroom jam," said to Fenn. He found a doctor. In the lighthouse called spring. He');
INSERT INTO "samples" VALUES(2,'c38scfb468wq',80,'In the village of Pebblewick','. So lives in the mill is a cobbler. Then it was a beekeeper. "I am Fenn," said "No. "Then you not sheep voice, and Marlo is Dunn. Biscuit belongs to the meadow. She is a rabbit.');
INSERT INTO "samples" VALUES(3,'6huarnusn4j9',30,'Tell me a bedtime story about Mira.','Do you can hear wolves. SheMarlo lives in the meadow. Bram the tower you. "The black boat," said One Sunday, "That is a duck."');
INSERT INTO "samples" VALUES(4,'6huarnusn4j9',30,'How is Juno''s fox called?','oJuno lives in the dog.');
CREATE TABLE "scores" (
	id INTEGER NOT NULL, 
	evaluation_id VARCHAR(12) NOT NULL, 
	metric VARCHAR(120) NOT NULL, 
	value FLOAT NOT NULL, 
	stderr FLOAT, 
	low FLOAT, 
	high FLOAT, 
	n INTEGER NOT NULL, 
	method VARCHAR(200) NOT NULL, 
	subgroup VARCHAR(400) NOT NULL, 
	CONSTRAINT pk_scores PRIMARY KEY (id), 
	CONSTRAINT fk_scores_evaluation_id FOREIGN KEY(evaluation_id) REFERENCES evaluations (id), 
	CONSTRAINT uq_scores_evaluation_id_metric_subgroup UNIQUE (evaluation_id, metric, subgroup)
);
INSERT INTO "scores" VALUES(1,'9qp2ay4qjg84','acc',0.265,3.12852815908872053e-02,2.08681541471091108e-01,3.3017576192622422e-01,200,'Wilson 95 %','');
INSERT INTO "scores" VALUES(2,'9qp2ay4qjg84','acc_norm',0.265,3.12852815908872053e-02,2.08681541471091108e-01,3.3017576192622422e-01,200,'Wilson 95 %','');
CREATE TABLE shadow_comparisons (
	id VARCHAR(12) NOT NULL, 
	deployment_id VARCHAR(12) NOT NULL, 
	is_equal BOOLEAN, 
	primary_tokens INTEGER NOT NULL, 
	shadow_tokens INTEGER NOT NULL, 
	primary_ttft_ms FLOAT, 
	shadow_ttft_ms FLOAT, 
	primary_total_ms FLOAT NOT NULL, 
	shadow_total_ms FLOAT NOT NULL, 
	error VARCHAR(40) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_shadow_comparisons PRIMARY KEY (id), 
	CONSTRAINT fk_shadow_comparisons_deployment_id FOREIGN KEY(deployment_id) REFERENCES deployments (id)
);
CREATE TABLE slots (
	host VARCHAR(80) NOT NULL, 
	device VARCHAR(20) NOT NULL, 
	job_id VARCHAR(12), 
	lease_until DATETIME NOT NULL, 
	CONSTRAINT pk_slots PRIMARY KEY (host, device)
);
CREATE TABLE stored_responses (
	id VARCHAR(40) NOT NULL, 
	owner VARCHAR(20) NOT NULL, 
	endpoint VARCHAR(200) NOT NULL, 
	previous_id VARCHAR(60), 
	items JSON NOT NULL, 
	document JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_stored_responses PRIMARY KEY (id)
);
CREATE TABLE suite_results (
	id VARCHAR(12) NOT NULL, 
	suite_id VARCHAR(12) NOT NULL, 
	checkpoint_id VARCHAR(12) NOT NULL, 
	config JSON NOT NULL, 
	members JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	launched_at DATETIME, 
	CONSTRAINT pk_suite_results PRIMARY KEY (id), 
	CONSTRAINT fk_suite_results_checkpoint_id FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id), 
	CONSTRAINT fk_suite_results_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT fk_suite_results_suite_id FOREIGN KEY(suite_id) REFERENCES suites (id)
);
CREATE TABLE suites (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	config JSON NOT NULL, 
	created_by VARCHAR(12), 
	created_at DATETIME NOT NULL, 
	archived_at DATETIME, 
	CONSTRAINT pk_suites PRIMARY KEY (id), 
	CONSTRAINT fk_suites_created_by FOREIGN KEY(created_by) REFERENCES users (id), 
	CONSTRAINT uq_suites_name UNIQUE (name)
);
CREATE TABLE tokenizers (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(120) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	vocab_size INTEGER, 
	folder VARCHAR(300), 
	dataset_version_id VARCHAR(12), 
	job_id VARCHAR(12), 
	facts JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_tokenizers PRIMARY KEY (id), 
	CONSTRAINT fk_tokenizers_dataset_version_id FOREIGN KEY(dataset_version_id) REFERENCES dataset_versions (id), 
	CONSTRAINT fk_tokenizers_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_tokenizers_name UNIQUE (name)
);
INSERT INTO "tokenizers" VALUES('237a5gkwb5qg','pebblewick-bpe-2048','bpe',2010,'tokenizers/237a5gkwb5qg','99v5ykbtug9n','fakpdptmn62c','{"kind": "bpe", "asked_vocab_size": 2048, "bytes_per_token": 4.2724, "measured_on": "val", "sample_rows": 2147, "sample_bytes": 1268236, "total_rows": 2147}','2026-11-27 03:31:32.828884');
CREATE TABLE traffic_rollups (
	id INTEGER NOT NULL, 
	width_s INTEGER NOT NULL, 
	start DATETIME NOT NULL, 
	endpoint_id VARCHAR(12) NOT NULL, 
	variant VARCHAR(40) NOT NULL, 
	requests INTEGER NOT NULL, 
	lost INTEGER NOT NULL, 
	refused INTEGER NOT NULL, 
	aborted INTEGER NOT NULL, 
	prompt_tokens INTEGER NOT NULL, 
	cached_tokens INTEGER NOT NULL, 
	completion_tokens INTEGER NOT NULL, 
	device_s FLOAT NOT NULL, 
	cost_usd FLOAT NOT NULL, 
	ttft JSON NOT NULL, 
	itl JSON NOT NULL, 
	total JSON NOT NULL, queue JSON DEFAULT '{}' NOT NULL, 
	CONSTRAINT pk_traffic_rollups PRIMARY KEY (id), 
	CONSTRAINT uq_traffic_rollups_width_s_start_endpoint_id_variant UNIQUE (width_s, start, endpoint_id, variant)
);
CREATE TABLE "usage" (
	id VARCHAR(40) NOT NULL, 
	endpoint_id VARCHAR(12), 
	key_id VARCHAR(12), 
	replica_id VARCHAR(12), 
	prompt_tokens INTEGER NOT NULL, 
	completion_tokens INTEGER NOT NULL, 
	ttft_ms FLOAT, 
	total_ms FLOAT, 
	status VARCHAR(20) NOT NULL, 
	created_at DATETIME NOT NULL, 
	checkpoint_id VARCHAR(12), 
	variant VARCHAR(40) DEFAULT '' NOT NULL, 
	cached_tokens INTEGER DEFAULT '0' NOT NULL, 
	itl_ms FLOAT, 
	device_s FLOAT, 
	cost_usd FLOAT, 
	finish_reason VARCHAR(20), queue_ms FLOAT, job_id VARCHAR(12), 
	CONSTRAINT pk_usage PRIMARY KEY (id), 
	CONSTRAINT fk_usage_key_id FOREIGN KEY(key_id) REFERENCES api_keys (id), 
	CONSTRAINT fk_usage_endpoint_id FOREIGN KEY(endpoint_id) REFERENCES endpoints (id)
);
INSERT INTO "usage" VALUES('play-745c83dcdf7cb2ac0ddb2b8e','dh7txnvpzrbs',NULL,'yqvy5ekrh649',11,15,2.91469599997071782e+01,2.39425831000062316e+02,'finished','2026-11-27 03:37:10.851582',NULL,'',0,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "usage" VALUES('chatcmpl-7c12383c85544339837902e9','dh7txnvpzrbs',NULL,'yqvy5ekrh649',7,7,32.31,33.32,'finished','2026-11-27 03:37:13.232566',NULL,'',0,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE users (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	role VARCHAR(20) NOT NULL, 
	password_hash VARCHAR(200) NOT NULL, 
	session_epoch INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	disabled_at DATETIME, 
	CONSTRAINT pk_users PRIMARY KEY (id), 
	CONSTRAINT uq_users_name UNIQUE (name)
);
CREATE TABLE votes (
	id VARCHAR(12) NOT NULL, 
	battle_id VARCHAR(12) NOT NULL, 
	rater_id VARCHAR(12) NOT NULL, 
	revision INTEGER NOT NULL, 
	label VARCHAR(10) NOT NULL, 
	supersedes_id VARCHAR(12), 
	duration_ms INTEGER, 
	note TEXT NOT NULL, 
	created_at DATETIME NOT NULL, reasons JSON DEFAULT '[]' NOT NULL, dimensions JSON DEFAULT '{}' NOT NULL, rewrite TEXT, flag VARCHAR(200) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_votes PRIMARY KEY (id), 
	CONSTRAINT fk_votes_battle_id FOREIGN KEY(battle_id) REFERENCES battles (id), 
	CONSTRAINT fk_votes_rater_id FOREIGN KEY(rater_id) REFERENCES raters (id), 
	CONSTRAINT fk_votes_supersedes_id FOREIGN KEY(supersedes_id) REFERENCES votes (id), 
	CONSTRAINT uq_votes_battle_id_revision UNIQUE (battle_id, revision), 
	CONSTRAINT uq_votes_supersedes_id UNIQUE (supersedes_id)
);
INSERT INTO "votes" VALUES('qsgh6q23whvn','8zh8gmyhncc6','local',1,'A',NULL,1432,'','2026-11-27 03:36:23.284197','[]','{}',NULL,'');
INSERT INTO "votes" VALUES('dwyj3whrcpb8','yr58ndjfdw5q','local',1,'A',NULL,519,'','2026-11-27 03:36:23.898958','[]','{}',NULL,'');
INSERT INTO "votes" VALUES('sm96tdu8kjtt','mfbf4p45fpee','local',1,'A',NULL,478,'','2026-11-27 03:36:24.398900','[]','{}',NULL,'');
INSERT INTO "votes" VALUES('agma4fgndr3m','3d2mjeurtjkx','local',1,'A',NULL,497,'','2026-11-27 03:36:24.914817','[]','{}',NULL,'');
INSERT INTO "votes" VALUES('8k3sen65p3qg','yq7mq3ta8nyv','local',1,'A',NULL,586,'','2026-11-27 03:36:25.511703','[]','{}',NULL,'');
CREATE TABLE workers (
	name VARCHAR(120) NOT NULL, 
	host VARCHAR(80) NOT NULL, 
	pid INTEGER NOT NULL, 
	queues JSON NOT NULL, 
	concurrency INTEGER NOT NULL, 
	devices JSON NOT NULL, 
	gauges JSON NOT NULL, 
	started_at DATETIME NOT NULL, 
	heartbeat_at DATETIME NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
INSERT INTO "workers" VALUES('workshop/train','workshop',20860,'["train"]',1,'[]','{"cpu_percent": 100.0, "cpu_count": 2, "cpu_name": "CPU, 2 cores", "memory_used_bytes": 8787800064, "memory_total_bytes": 25276502016, "gpus": []}','2026-11-27 03:31:56.083984','2026-11-27 03:37:49.163197');
INSERT INTO "workers" VALUES('workshop/eval','workshop',20858,'["eval"]',1,'[]','{"cpu_percent": 100.0, "cpu_count": 2, "cpu_name": "CPU, 2 cores", "memory_used_bytes": 7643836416, "memory_total_bytes": 25276502016, "gpus": []}','2026-11-27 03:31:56.709449','2026-11-27 03:38:01.180678');
INSERT INTO "workers" VALUES('workshop/cpu','workshop',20857,'["cpu"]',2,'[]','{"cpu_percent": 100.0, "cpu_count": 2, "cpu_name": "CPU, 2 cores", "memory_used_bytes": 7652790272, "memory_total_bytes": 25276502016, "gpus": []}','2026-11-27 03:31:59.642804','2026-11-27 03:38:05.899082');
INSERT INTO "workers" VALUES('workshop/serve','workshop',20859,'["serve"]',8,'[]','{"cpu_percent": 100.0, "cpu_count": 2, "cpu_name": "CPU, 2 cores", "memory_used_bytes": 7568101376, "memory_total_bytes": 25276502016, "gpus": []}','2026-11-27 03:32:09.975656','2026-11-27 03:37:56.033347');
CREATE INDEX ix_conversations_user_id ON conversations (user_id);
CREATE INDEX ix_jobs_depends_on_id ON jobs (depends_on_id);
CREATE INDEX ix_jobs_status_queue ON jobs (status, queue, priority, created_at);
CREATE INDEX ix_dataset_versions_content_hash ON dataset_versions (content_hash);
CREATE INDEX ix_dataset_versions_dataset_id ON dataset_versions (dataset_id);
CREATE INDEX ix_log_lines_job ON log_lines (job_id, id);
CREATE INDEX ix_runs_base_id ON runs (base_id);
CREATE INDEX ix_runs_dataset_version_id ON runs (dataset_version_id);
CREATE INDEX ix_checkpoints_parent_id ON checkpoints (parent_id);
CREATE INDEX ix_checkpoints_run_id ON checkpoints (run_id);
CREATE INDEX ix_samples_run_step ON samples (run_id, step);
CREATE INDEX ix_campaign_prompts_campaign_id ON campaign_prompts (campaign_id);
CREATE INDEX ix_deployments_checkpoint_id ON deployments (checkpoint_id);
CREATE INDEX ix_deployments_endpoint_id ON deployments (endpoint_id);
CREATE INDEX ix_messages_conversation_id ON messages (conversation_id);
CREATE INDEX ix_evaluation_items_evaluation_id ON evaluation_items (evaluation_id);
CREATE INDEX ix_votes_battle_id ON votes (battle_id);
CREATE INDEX ix_votes_rater_id ON votes (rater_id);
CREATE INDEX ix_measurements_device_created_at ON measurements (device, created_at);
CREATE INDEX ix_measurements_job_id ON measurements (job_id);
CREATE INDEX ix_measurements_run_id ON measurements (run_id);
CREATE INDEX ix_measurements_setting_hash ON measurements (setting_hash);
CREATE INDEX ix_analyses_checkpoint_id ON analyses (checkpoint_id);
CREATE INDEX ix_analyses_dataset_version_id ON analyses (dataset_version_id);
CREATE INDEX ix_analyses_kind_created_at ON analyses (kind, created_at);
CREATE INDEX ix_analyses_other_checkpoint_id ON analyses (other_checkpoint_id);
CREATE INDEX ix_analyses_tokenizer_id ON analyses (tokenizer_id);
CREATE INDEX ix_dataset_versions_parent_id ON dataset_versions (parent_id);
CREATE INDEX ix_runs_group_id ON runs (group_id);
CREATE INDEX ix_runs_parent_id ON runs (parent_id);
CREATE INDEX ix_runs_archived_at_created_at ON runs (archived_at, created_at);
CREATE INDEX ix_suite_results_suite_id_created_at ON suite_results (suite_id, created_at);
CREATE INDEX ix_suite_results_checkpoint_id ON suite_results (checkpoint_id);
CREATE INDEX ix_suite_results_launched_at ON suite_results (launched_at);
CREATE INDEX ix_run_suites_suite_id ON run_suites (suite_id);
CREATE INDEX ix_gate_results_gate_id_created_at ON gate_results (gate_id, created_at);
CREATE INDEX ix_gate_results_champion_id ON gate_results (champion_id);
CREATE INDEX ix_gate_results_checkpoint_id ON gate_results (checkpoint_id);
CREATE INDEX ix_required_gates_gate_id ON required_gates (gate_id);
CREATE INDEX ix_aliases_checkpoint_id ON aliases (checkpoint_id);
CREATE INDEX ix_promotions_alias_id_created_at ON promotions (alias_id, created_at);
CREATE INDEX ix_promotions_campaign_id ON promotions (campaign_id);
CREATE INDEX ix_promotions_checkpoint_id ON promotions (checkpoint_id);
CREATE INDEX ix_promotions_previous_id ON promotions (previous_id);
CREATE INDEX ix_rater_exclusions_campaign_id ON rater_exclusions (campaign_id);
CREATE INDEX ix_rater_exclusions_rater_id ON rater_exclusions (rater_id);
CREATE INDEX ix_answer_ratings_campaign_id ON answer_ratings (campaign_id);
CREATE INDEX ix_answer_ratings_rater_id ON answer_ratings (rater_id);
CREATE INDEX ix_battles_campaign_rater ON battles (campaign_id, rater_id);
CREATE INDEX ix_completions_prompt_id ON completions (prompt_id);
CREATE INDEX ix_completions_contestant_id ON completions (contestant_id);
CREATE INDEX ix_contestants_campaign_id ON contestants (campaign_id);
CREATE INDEX ix_evaluations_checkpoint_id ON evaluations (checkpoint_id);
CREATE INDEX ix_evaluations_dataset_version_id ON evaluations (dataset_version_id);
CREATE INDEX ix_evaluations_fingerprint ON evaluations (fingerprint);
CREATE INDEX ix_evaluations_endpoint_id ON evaluations (endpoint_id);
CREATE INDEX ix_judged_items_evaluation_id ON judged_items (evaluation_id);
CREATE INDEX ix_judged_items_job_id ON judged_items (job_id);
CREATE INDEX ix_battles_campaign_id_served_at ON battles (campaign_id, served_at);
CREATE INDEX ix_votes_created_at ON votes (created_at);
CREATE INDEX ix_alerts_fingerprint_resolved_at ON alerts (fingerprint, resolved_at);
CREATE INDEX ix_device_uses_job_id ON device_uses (job_id);
CREATE INDEX ix_device_uses_started_at ON device_uses (started_at);
CREATE INDEX ix_feedback_request_id ON feedback (request_id);
CREATE INDEX ix_load_tests_endpoint_id ON load_tests (endpoint_id);
CREATE INDEX ix_request_logs_endpoint_id_created_at ON request_logs (endpoint_id, created_at);
CREATE INDEX ix_request_logs_expires_at ON request_logs (expires_at);
CREATE INDEX ix_usage_endpoint_time ON usage (endpoint_id, created_at);
CREATE INDEX ix_usage_key_id_created_at ON usage (key_id, created_at);
CREATE INDEX ix_replica_failures_replica_time ON replica_failures (replica_id, created_at);
CREATE INDEX ix_conversation_shares_conversation_id ON conversation_shares (conversation_id);
CREATE INDEX ix_presets_user_id ON presets (user_id);
CREATE INDEX ix_replicas_deployment_id ON replicas (deployment_id);
CREATE UNIQUE INDEX ux_alerts_open ON alerts (fingerprint) WHERE resolved_at IS NULL;
CREATE INDEX ix_alert_deliveries_alert_id ON alert_deliveries (alert_id);
CREATE INDEX ix_alert_deliveries_next_at ON alert_deliveries (next_at);
CREATE INDEX ix_shadow_comparisons_deployment_time ON shadow_comparisons (deployment_id, created_at);
CREATE INDEX ix_stored_responses_owner_time ON stored_responses (owner, created_at);
CREATE INDEX ix_stored_responses_expires_at ON stored_responses (expires_at);
COMMIT;
